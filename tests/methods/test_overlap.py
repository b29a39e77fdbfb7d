"""pml.overlap against numbers computed by hand."""

import math

import pytest
import torch

import pymultiling as pml


def set_of(*members: int) -> pml.NeuronSet:
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask.view(-1)[list(members)] = True
    return pml.NeuronSet({"ffn": mask})


def test_counts_and_jaccard_are_those_computed_by_hand():
    sets = {"a": set_of(0, 1, 7), "b": set_of(1, 7, 8, 9), "none": set_of(), "also none": set_of()}
    counts, jaccard = pml.overlap(sets)
    assert counts.loc["a", "b"] == counts.loc["b", "a"] == 2
    assert counts.loc["a", "a"] == 3 and counts.loc["a", "none"] == 0
    assert jaccard.loc["a", "b"] == pytest.approx(2 / 5) and jaccard.loc["b", "b"] == 1
    assert jaccard.loc["a", "none"] == 0
    assert math.isnan(jaccard.loc["none", "also none"]) and math.isnan(jaccard.loc["none", "none"])


def test_sets_of_different_models_are_refused():
    with pytest.raises(ValueError, match="different models"):
        pml.overlap({"a": set_of(0), "b": pml.NeuronSet({"ffn": torch.ones(2, 4, dtype=torch.bool)})})
