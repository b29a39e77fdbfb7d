"""Counts of the documents in which a neuron is among the most important of its layer and site."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pymultiling.neurons.ranking import TOP_FRACTIONS, count_among, count_top, top_amount


def count_one_by_one(values: torch.Tensor, k: int) -> torch.Tensor:
    """Sorts each layer of each document in Python."""
    counts = torch.zeros(values.shape[1:], dtype=torch.int32)
    for document in values.tolist():
        for layer, row in enumerate(document):
            for neuron in sorted(range(len(row)), key=row.__getitem__, reverse=True)[:k]:
                counts[layer, neuron] += row[neuron] > 0
    return counts


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 60), st.integers(0, 99), st.data())
@settings(deadline=None)
def test_agrees_with_sorting_each_layer_of_each_document(documents, layers, width, seed, data):
    """All values differ or are 0, so that the most important neurons are the same in both."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(documents, layers, width, generator=generator, dtype=torch.float64)
    values[torch.rand(values.shape, generator=generator) < 0.3] = 0
    amounts = data.draw(st.lists(st.integers(0, width), min_size=1, max_size=5))
    expected = torch.stack([count_one_by_one(values, k) for k in amounts])
    assert torch.equal(count_among(values, amounts), expected)


def test_counts_every_fraction_of_every_site():
    """With 400 neurons the fractions are 2, 4, 8, 20, 40 and 80, and the least important neuron comes first."""
    values = torch.arange(400.0).expand(3, 1, 400)
    counts = count_top({"q": values, "o": values[..., :4]})
    assert counts["q"].shape == (6, 1, 400)
    assert (counts["q"] == 3).sum(-1).flatten().tolist() == [2, 4, 8, 20, 40, 80]
    assert counts["q"][2, 0].nonzero().flatten().tolist() == list(range(392, 400))
    assert counts["o"].flatten(1).tolist() == [[0, 0, 0, 3]] * 6  # at least one neuron


@pytest.mark.parametrize("amount, k", [(0, 0), (0.0, 0), (1, 1), (7, 7), (1000, 90), (0.0001, 1), (1.0, 90), (0.1, 9)])
def test_amounts_are_counts_or_fractions(amount, k):
    assert top_amount(amount, 90) == k


def test_fractions_ascend():
    """`NeuronStatistics.top` and the files have them in this order."""
    assert list(TOP_FRACTIONS) == sorted(TOP_FRACTIONS) == [0.005, 0.01, 0.02, 0.05, 0.1, 0.2]
