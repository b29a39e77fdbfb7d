import math

import pytest
import torch

import pymultiling as pml


def one(*members: int) -> pml.NeuronSet:
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask.view(-1)[list(members)] = True
    return pml.NeuronSet({"ffn": mask})


def test_counts_and_jaccard():
    sets = {"a": one(0, 1, 7), "b": one(1, 7, 8, 9), "none": one(), "also none": one()}
    counts, jaccard = pml.overlap(sets)
    assert counts.loc["a", "b"] == counts.loc["b", "a"] == 2
    assert counts.loc["a", "a"] == 3 and counts.loc["a", "none"] == 0
    assert jaccard.loc["a", "b"] == pytest.approx(2 / 5) and jaccard.loc["b", "b"] == 1
    assert jaccard.loc["a", "none"] == 0
    assert math.isnan(jaccard.loc["none", "also none"]) and math.isnan(jaccard.loc["none", "none"])


def test_sets_of_different_models():
    with pytest.raises(ValueError, match="different models"):
        pml.overlap({"a": one(0), "b": pml.NeuronSet({"ffn": torch.ones(2, 4, dtype=torch.bool)})})
