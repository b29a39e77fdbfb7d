"""pml.ternary against its equations in plain Python."""

import math
import random

import pytest
import torch

import pymultiling as pml
from tests.methods.test_lape import (
    continuous_statistics,
    is_doubtful,
    members,
    plain_entropy,
    plain_lowest,
    plain_probabilities,
    plain_threshold,
    statistics_of,
    tied_statistics,
)


def harmonic(languages: int) -> float:
    return sum(1 / i for i in range(1, languages + 1))


def plain_values(rows: list[list[float]], lam: float) -> dict[int, float]:
    """Returns the ranked value of every neuron, in the released scale."""
    languages = len(rows[0])
    entropies = [plain_entropy(row) / math.log(languages) if any(row) else 1.0 for row in rows]
    return {n: entropies[n] - lam * max(row) / (harmonic(languages) / languages) for n, row in enumerate(rows)}


def to_paper(lam: float, languages: int) -> float:
    return lam * languages * math.log(languages) / harmonic(languages)


@pytest.mark.parametrize("seeds", [range(100), range(100, 200), range(200, 300)])
def test_kinds_are_those_of_the_equations(seeds):
    for seed in seeds:
        statistics, options = tied_statistics(seed)
        lam = random.Random(seed).choice((0, 0.05, 0.2, 1.5))
        rows, languages = plain_probabilities(statistics), len(statistics)
        threshold = plain_threshold(rows, options["bar"])
        values, count = plain_values(rows, lam), round(options["top"] * len(rows))
        if is_doubtful(values, count):
            continue
        selected = plain_lowest(values, count)
        language_counts = {n: sum(p > threshold for p in rows[n]) for n in selected}
        result = pml.ternary(statistics, lam=lam, **options)
        for k, name in enumerate(statistics):
            assert members(result.neurons[name]) == {n for n in selected if rows[n][k] > threshold}, (seed, name)
        assert members(result.specific) == {n for n in selected if language_counts[n] == 1}
        assert members(result.related) == {n for n in selected if 1 < language_counts[n] < languages}
        assert members(result.general) == {n for n in selected if language_counts[n] == languages}
        assert result.histogram == [list(language_counts.values()).count(k) for k in range(languages + 1)]
        assert (result.lam, result.threshold) == (lam, threshold)


def test_the_paper_scale_ranks_by_its_own_equation():
    """In the paper's scale neurons are ranked by H - lam max p."""
    for seed in range(5):
        statistics = continuous_statistics(seed)
        rows = plain_probabilities(statistics)
        for lam in (0.0, 0.3, 0.9):
            values = {n: plain_entropy(row) - lam * max(row) for n, row in enumerate(rows)}
            result = pml.ternary(statistics, lam=lam, scale="paper", top=0.1)
            threshold = plain_threshold(rows, 0.95)
            expected = {n for n in plain_lowest(values, 100) if max(rows[n]) > threshold}
            assert members(result.specific | result.related | result.general) == expected
            assert result.lam == lam


@pytest.mark.parametrize("languages", [2, 3, 5])
def test_both_scales_select_the_same(languages):
    statistics = continuous_statistics(languages, languages)
    for lam in (0.02, 0.11, 0.4):
        released = pml.ternary(statistics, lam=lam)
        paper = pml.ternary(statistics, lam=to_paper(lam, languages), scale="paper")
        assert paper.neurons == released.neurons and paper.histogram == released.histogram
    released, paper = pml.ternary(statistics), pml.ternary(statistics, scale="paper")
    assert paper.neurons == released.neurons
    assert paper.lam == pytest.approx(to_paper(released.lam, languages), rel=1e-12)


def plain_general(rows: list[list[float]], lam: float, top: float, bar: float) -> int:
    threshold = plain_threshold(rows, bar)
    return sum(min(rows[n]) > threshold for n in plain_lowest(plain_values(rows, lam), round(top * len(rows))))


@pytest.mark.parametrize("seed", range(8))
def test_auto_is_the_largest_lam_of_the_bisection_without_general_neurons(seed):
    statistics = continuous_statistics(seed, languages=3)
    options = {"top": 0.5, "bar": 0.7}
    result = pml.ternary(statistics, **options)
    assert 0 < result.lam < 0.2 and len(result.general) == 0
    assert (result.lam * 256 / 0.2) == pytest.approx(round(result.lam * 256 / 0.2))
    rows = plain_probabilities(statistics)
    assert plain_general(rows, result.lam, **options) == 0 < plain_general(rows, result.lam + 1e-3, **options)
    assert len(pml.ternary(statistics, lam=result.lam + 1e-3, **options).general) > 0
    assert pml.ternary(statistics, lam=result.lam, **options) == result


def test_auto_is_0_2_where_that_selects_no_general_neuron():
    result = pml.ternary(continuous_statistics(0), top=0.01, bar=0.99)
    assert result.lam == 0.2 and len(result.general) == 0
    assert pml.ternary(continuous_statistics(0), top=0.01, bar=0.99, scale="paper").lam == pytest.approx(
        to_paper(0.2, 4)
    )


def test_auto_is_refused_where_lam_0_selects_general_neurons():
    with pytest.raises(ValueError, match=r"^lam=") as caught:
        pml.ternary(continuous_statistics(0), top=0.9, bar=0.5)
    general = len(pml.ternary(continuous_statistics(0), top=0.9, bar=0.5, lam=0).general)
    assert str(caught.value) == (
        f'lam="auto" needs a lam that selects no general neuron, but lam = 0 selects {general}: give lam as a number, '
        "or another top or bar"
    )


def test_kinds_are_those_found_by_hand():
    """The four neurons of layers 0 and 1 are selected: they belong to 1, 2, 3 and 0 languages. None of layer 2 is."""
    active = torch.tensor([[[9, 0, 0], [0, 9, 9]], [[9, 9, 9], [1, 0, 0]], [[0, 0, 0], [5, 5, 4]]])
    result = pml.ternary(
        statistics_of(active, [10] * 3), top=0.67, bar=0.67, lam=0.5
    )  # threshold: the 12th smallest, 0.5
    assert result.threshold == 0.5
    assert (members(result.specific), members(result.related), members(result.general)) == ({0}, {1}, {2})
    assert result.histogram == [1, 1, 1, 1]
    assert {name: members(neurons) for name, neurons in result.neurons.items()} == {
        "en": {0, 2},
        "zh": {1, 2},
        "sw": {1, 2},
    }
    table = result.by_layer()
    assert list(table) == ["layer", "specific", "related", "general"]
    assert table.to_numpy().tolist() == [[0, 1, 1, 0], [1, 0, 0, 1], [2, 0, 0, 0]]


def test_two_languages_have_no_related_neurons():
    result = pml.ternary(continuous_statistics(0, languages=2), top=0.3, bar=0.5, lam=1.0)
    assert len(result.related) == 0 < min(len(result.specific), len(result.general))
    assert len(result.histogram) == 3


def test_wrong_lam_and_scale_are_refused():
    statistics = continuous_statistics(0)
    for wrong in ("largest", -0.1, float("nan"), float("inf"), None):
        with pytest.raises(ValueError, match=f'^lam must be "auto" or a number of at least 0, got {wrong!r}$'):
            pml.ternary(statistics, lam=wrong)
    with pytest.raises(ValueError, match=r'^scale must be "released" or "paper", got \'mine\'$'):
        pml.ternary(statistics, scale="mine")
