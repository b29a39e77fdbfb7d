import math
import random

import pytest
import torch

import pymultiling as pml
from tests.methods.test_lape import (
    continuous,
    counted,
    doubtful,
    members,
    plain,
    plain_entropy,
    plain_lowest,
    plain_threshold,
    tied,
)


def harmonic(languages: int) -> float:
    return sum(1 / i for i in range(1, languages + 1))


def plain_scores(rows: list[list[float]], lam: float) -> dict[int, float]:
    """In the released scale."""
    languages = len(rows[0])
    spread = [plain_entropy(row) / math.log(languages) if any(row) else 1.0 for row in rows]
    return {n: spread[n] - lam * max(row) / (harmonic(languages) / languages) for n, row in enumerate(rows)}


def to_paper(lam: float, languages: int) -> float:
    return lam * languages * math.log(languages) / harmonic(languages)


@pytest.mark.parametrize("seeds", [range(100), range(100, 200), range(200, 300)])
def test_the_equations(seeds):
    for seed in seeds:
        statistics, options = tied(seed)
        lam = random.Random(seed).choice((0, 0.05, 0.2, 1.5))
        rows, languages = plain(statistics), len(statistics)
        threshold = plain_threshold(rows, options["bar"])
        scores, count = plain_scores(rows, lam), round(options["top"] * len(rows))
        if doubtful(scores, count):
            continue
        selected = plain_lowest(scores, count)
        number = {n: sum(p > threshold for p in rows[n]) for n in selected}
        found = pml.ternary(statistics, lam=lam, **options)
        for k, name in enumerate(statistics):
            assert members(found.neurons[name]) == {n for n in selected if rows[n][k] > threshold}, (seed, name)
        assert members(found.specific) == {n for n in selected if number[n] == 1}
        assert members(found.related) == {n for n in selected if 1 < number[n] < languages}
        assert members(found.general) == {n for n in selected if number[n] == languages}
        assert found.histogram == [list(number.values()).count(k) for k in range(languages + 1)]
        assert (found.lam, found.threshold) == (lam, threshold)


def test_the_paper_s_scale():
    """score = H - lam max p, written out, with lam in that scale."""
    for seed in range(5):
        statistics = continuous(seed)
        rows = plain(statistics)
        for lam in (0.0, 0.3, 0.9):
            scores = {n: plain_entropy(row) - lam * max(row) for n, row in enumerate(rows)}
            found = pml.ternary(statistics, lam=lam, scale="paper", top=0.1)
            threshold = plain_threshold(rows, 0.95)
            owned = {n for n in plain_lowest(scores, 100) if max(rows[n]) > threshold}
            assert members(found.specific | found.related | found.general) == owned
            assert found.lam == lam


@pytest.mark.parametrize("languages", [2, 3, 5])
def test_both_scales_select_the_same(languages):
    statistics = continuous(languages, languages)
    for lam in (0.02, 0.11, 0.4):
        released = pml.ternary(statistics, lam=lam)
        paper = pml.ternary(statistics, lam=to_paper(lam, languages), scale="paper")
        assert paper.neurons == released.neurons and paper.histogram == released.histogram
    released, paper = pml.ternary(statistics), pml.ternary(statistics, scale="paper")
    assert paper.neurons == released.neurons
    assert paper.lam == pytest.approx(to_paper(released.lam, languages), rel=1e-12)


def plain_general(rows: list[list[float]], lam: float, top: float, bar: float) -> int:
    threshold = plain_threshold(rows, bar)
    return sum(min(rows[n]) > threshold for n in plain_lowest(plain_scores(rows, lam), round(top * len(rows))))


@pytest.mark.parametrize("seed", range(8))
def test_auto(seed):
    """The last lam of the bisection that selects no general neuron."""
    statistics = continuous(seed, languages=3)
    options = {"top": 0.5, "bar": 0.7}
    found = pml.ternary(statistics, **options)
    assert 0 < found.lam < 0.2 and len(found.general) == 0
    assert (found.lam * 256 / 0.2) == pytest.approx(round(found.lam * 256 / 0.2))
    rows = plain(statistics)
    assert plain_general(rows, found.lam, **options) == 0 < plain_general(rows, found.lam + 1e-3, **options)
    assert len(pml.ternary(statistics, lam=found.lam + 1e-3, **options).general) > 0
    assert pml.ternary(statistics, lam=found.lam, **options) == found


def test_auto_is_0_2_where_it_can_be():
    found = pml.ternary(continuous(0), top=0.01, bar=0.99)
    assert found.lam == 0.2 and len(found.general) == 0
    assert pml.ternary(continuous(0), top=0.01, bar=0.99, scale="paper").lam == pytest.approx(to_paper(0.2, 4))


def test_auto_finds_nothing():
    with pytest.raises(ValueError) as caught:
        pml.ternary(continuous(0), top=0.9, bar=0.5)
    general = len(pml.ternary(continuous(0), top=0.9, bar=0.5, lam=0).general)
    assert str(caught.value) == (
        f'lam="auto" needs a lam that selects no general neuron, but lam = 0 selects {general}: give lam as a number, '
        "or another top or bar"
    )


def test_kinds_by_hand():
    """Neurons of 1, 2, 3 and no languages; those of the last layer, one of which is never active, are not selected."""
    active = torch.tensor([[[9, 0, 0], [0, 9, 9]], [[9, 9, 9], [1, 0, 0]], [[0, 0, 0], [5, 5, 4]]])
    found = pml.ternary(counted(active, [10] * 3), top=0.67, bar=0.67, lam=0.5)  # threshold: the 12th smallest, 0.5
    assert found.threshold == 0.5
    assert (members(found.specific), members(found.related), members(found.general)) == ({0}, {1}, {2})
    assert found.histogram == [1, 1, 1, 1]
    assert {name: members(one) for name, one in found.neurons.items()} == {"en": {0, 2}, "zh": {1, 2}, "sw": {1, 2}}
    table = found.by_layer()
    assert list(table) == ["layer", "specific", "related", "general"]
    assert table.to_numpy().tolist() == [[0, 1, 1, 0], [1, 0, 0, 1], [2, 0, 0, 0]]


def test_two_languages_have_no_related_neurons():
    found = pml.ternary(continuous(0, languages=2), top=0.3, bar=0.5, lam=1.0)
    assert len(found.related) == 0 < min(len(found.specific), len(found.general))
    assert len(found.histogram) == 3


def test_errors():
    statistics = continuous(0)
    for wrong in ("largest", -0.1, float("nan"), float("inf"), None):
        with pytest.raises(ValueError, match=f'^lam must be "auto" or a number of at least 0, got {wrong!r}$'):
            pml.ternary(statistics, lam=wrong)
    with pytest.raises(ValueError, match=r'^scale must be "released" or "paper", got \'mine\'$'):
        pml.ternary(statistics, scale="mine")
