"""pml.ternary_change against tables computed by hand."""

import math

import pytest
import torch

import pymultiling as pml
from tests.methods.test_lape import continuous_statistics, members


def set_of(*neurons: int) -> pml.NeuronSet:
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask.view(-1)[list(neurons)] = True
    return pml.NeuronSet({"ffn": mask})


def results_by_hand() -> tuple[pml.Ternary, pml.Ternary]:
    before = pml.Ternary(
        {"en": set_of(0, 1, 7), "zh": set_of(1, 7)}, set_of(0), set_of(), set_of(1, 7), 0.1, 0.5, [1, 1, 2]
    )
    after = pml.Ternary(
        {"zh": set_of(8), "en": set_of(1, 7, 0, 9)}, set_of(0, 8, 9), set_of(), set_of(7), 0.2, 0.6, [0, 3, 1]
    )
    return before, after


def test_tables_are_those_found_by_hand():
    kinds, layers, histogram, languages = pml.ternary_change(*results_by_hand())
    assert list(kinds) == ["before", "after", "change", "both", "jaccard"]
    assert kinds.loc["specific"].tolist() == pytest.approx([1, 3, 2, 1, 1 / 3])
    assert kinds.loc["general"].tolist() == pytest.approx([2, 1, -1, 1, 1 / 2])
    assert kinds.loc["related", "change"] == 0 and math.isnan(kinds.loc["related", "jaccard"])
    assert list(kinds.index) == ["specific", "related", "general"]
    assert list(layers) == ["layer", "kind", "before", "after", "change"]
    assert layers.to_numpy().tolist() == [
        [0, "specific", 1, 1, 0],
        [1, "specific", 0, 2, 2],
        [0, "related", 0, 0, 0],
        [1, "related", 0, 0, 0],
        [0, "general", 1, 0, -1],
        [1, "general", 1, 1, 0],
    ]
    assert list(histogram) == ["before", "after", "change"]
    assert histogram.to_numpy().tolist() == [[1, 0, -1], [1, 3, 2], [2, 1, -1]] and list(histogram.index) == [0, 1, 2]
    assert list(languages) == ["before", "after", "both", "jaccard"] and list(languages.index) == ["en", "zh"]
    assert languages.loc["en"].tolist() == pytest.approx([3, 4, 3, 3 / 4])
    assert languages.loc["zh"].tolist() == [2, 1, 0, 0]


def test_counts_are_whole_numbers():
    change = pml.ternary_change(*results_by_hand())
    for frame in change:
        numbers = frame.drop(columns=["kind", "jaccard"], errors="ignore")
        assert all(kind.kind == "i" for kind in numbers.dtypes)


def test_tables_of_two_models_agree_with_their_sets():
    before, after = (pml.ternary(continuous_statistics(seed), top=0.2, bar=0.6, lam=0.1) for seed in (0, 1))
    change = pml.ternary_change(before, after)
    assert change.layers["before"].sum() == change.kinds["before"].sum() == sum(before.histogram[1:])
    assert change.histogram["change"].sum() == 0
    assert change.kinds.loc["specific", "both"] == len(members(before.specific) & members(after.specific))
    assert 0 < change.kinds.loc["specific", "both"] < change.kinds.loc["specific", "before"]
    same = pml.ternary_change(before, before)
    assert (same.layers["change"] == 0).all() and (same.languages["jaccard"] == 1).all()


def test_models_of_other_shapes_or_languages_are_refused():
    result = pml.ternary(continuous_statistics(0), lam=0.1)
    with pytest.raises(
        ValueError, match=r"^the models have different shapes: 5 layers x 200 neurons before, 3 x 200 after$"
    ):
        pml.ternary_change(result, pml.ternary(continuous_statistics(0, layers=3), lam=0.1))
    with pytest.raises(ValueError, match=r"^the languages must be the same: before en, zh, sw, tr, after en, zh, sw$"):
        pml.ternary_change(result, pml.ternary(continuous_statistics(0, languages=3), lam=0.1))
    before, after = results_by_hand()
    after.neurons["de"] = after.neurons.pop("zh")
    with pytest.raises(ValueError, match=r"^the languages must be the same: before en, zh, after en, de$"):
        pml.ternary_change(before, after)
