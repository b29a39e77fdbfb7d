"""What the benchmarks of killed runs and several processes say about two results."""

from copy import deepcopy

import torch

from benchmarks.endurance.survival import describe_difference, difference
from pymultiling import NeuronStatistics, TopK


def statistics_of_two_documents() -> dict[str, NeuronStatistics]:
    rule, values = TopK(ffn=2), {"ffn": torch.arange(1.0, 11.0).view(2, 1, 5)}
    return {"fr": NeuronStatistics.of_batch(values, rule.votes(values), 14, rule.rule())}


def test_sums_are_compared_by_their_relative_difference():
    expected, actual = statistics_of_two_documents(), statistics_of_two_documents()
    assert difference(actual, expected) == 0
    actual["fr"].sum["ffn"][0, 0] *= 1.5
    assert difference(actual, expected) == 0.5 and describe_difference(0.5) == "sums differ by 5.0e-01"


def test_other_differences_are_not_reported_as_those_of_sums():
    expected = statistics_of_two_documents()
    for kind in ("minimum", "votes"):
        actual = deepcopy(expected)
        getattr(actual["fr"], kind)["ffn"][0, 3] += 1
        assert difference(actual, expected) is None
    for count in ("documents", "tokens"):
        actual = deepcopy(expected)
        setattr(actual["fr"], count, 3)
        assert difference(actual, expected) is None
    assert "votes differ" in describe_difference(None)
