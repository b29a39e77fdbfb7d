"""LAPE against its equations in plain Python. The helpers serve test_ternary.py and test_ternary_change.py too."""

import math
import random

import pytest
import torch

import pymultiling as pml
from pymultiling.methods.lape import select_lowest

NAMES = ("en", "zh", "sw", "tr", "hi")


def counted(active: torch.Tensor, tokens: list[int]) -> dict[str, pml.ActivationStatistics]:
    """active: (layers, neurons, languages)."""
    of_languages = zip(NAMES, active.unbind(-1), tokens)
    return {name: pml.ActivationStatistics(counts, of_language) for name, counts, of_language in of_languages}


def tied(seed: int) -> tuple[dict[str, pml.ActivationStatistics], dict[str, float]]:
    """Small counts, whose probabilities and scores are often equal; some neurons are never active. With top and bar."""
    draw = random.Random(seed)
    layers, neurons, languages = draw.randint(1, 4), draw.randint(2, 12), draw.randint(2, 5)
    tokens = [draw.choice((2, 4, 6)) for _ in range(languages)]
    active = torch.zeros(layers * neurons, languages, dtype=torch.int64)
    for row in active:
        if draw.random() < 0.8:
            row[:] = torch.tensor([draw.randint(0, most) for most in tokens])
    options = {"top": draw.choice((0.05, 0.2, 0.4, 0.8)), "bar": draw.choice((0.01, 0.3, 0.6, 0.9))}
    return counted(active.view(layers, neurons, languages), tokens), options


def continuous(seed: int, languages: int = 4, layers: int = 5) -> dict[str, pml.ActivationStatistics]:
    """Large counts, hardly ever equal, of neurons active often or rarely, in all languages alike or in some."""
    generator = torch.Generator().manual_seed(seed)
    often, apart, own = (torch.rand(layers, 200, k, generator=generator) for k in (1, 1, languages))
    return counted((often * own.double() ** (3 * apart) * 10**9).long(), [10**9 + k for k in range(languages)])


def plain(statistics: dict[str, pml.ActivationStatistics]) -> list[list[float]]:
    """Probabilities of every neuron."""
    columns = [[count / one.tokens for count in one.active.flatten().tolist()] for one in statistics.values()]
    return [list(row) for row in zip(*columns)]


def plain_threshold(rows: list[list[float]], bar: float) -> float:
    flat = sorted(value for row in rows for value in row)
    return flat[max(1, round(bar * len(flat))) - 1]


def plain_entropy(row: list[float]) -> float:
    return -sum(p / sum(row) * math.log(p / sum(row)) for p in row if p)


def plain_lowest(scores: dict[int, float], count: int) -> set[int]:
    return {neuron for _, neuron in sorted((round(score, 12), neuron) for neuron, score in scores.items())[:count]}


def doubtful(scores: dict[int, float], count: int) -> bool:
    """Whether the last score taken is where 12 decimals are rounded up or down by the last bit of a logarithm."""
    ordered = sorted(scores.values())
    return 0 < count <= len(ordered) and abs(ordered[count - 1] * 1e12 % 1 - 0.5) < 0.01


def members(one: pml.NeuronSet) -> set[int]:
    return set(one.sites["ffn"].flatten().nonzero().squeeze(1).tolist())


@pytest.mark.parametrize("seeds", [range(100), range(100, 200), range(200, 300)])
def test_the_equations(seeds):
    for seed in seeds:
        statistics, options = tied(seed)
        rows = plain(statistics)
        threshold = plain_threshold(rows, options["bar"])
        passing = {n: plain_entropy(row) for n, row in enumerate(rows) if max(row) > threshold}
        count = round(options["top"] * len(rows))
        if doubtful(passing, count):
            continue
        selected = plain_lowest(passing, count)
        found = pml.lape(statistics, **options)
        assert list(found) == list(statistics)
        for k, name in enumerate(statistics):
            assert members(found[name]) == {n for n in selected if rows[n][k] > threshold}, (seed, name)


def test_by_hand():
    """Of four neurons the third is in one language alone; the fourth too, but below the bar."""
    active = torch.tensor([[[5, 5], [9, 4], [8, 0], [1, 0]]])
    found = pml.lape(counted(active, [10, 10]), top=0.5, bar=0.5)  # threshold: the 4th of 0 0 .1 .4 .5 .5 .8 .9
    assert members(found["en"]) == {1, 2} and members(found["zh"]) == set()
    assert list(found["en"].sites) == ["ffn"]


@pytest.mark.parametrize("seed", range(5))
def test_the_sets_cover_the_top_fraction(seed):
    found = pml.lape(continuous(seed))
    together = members(found["en"]) | members(found["zh"]) | members(found["sw"]) | members(found["tr"])
    assert len(together) == round(0.01 * 5 * 200)


def test_fewer_where_probabilities_are_equal():
    """All above the bar but the third, and only these can be selected."""
    active = torch.tensor([[[2, 1], [1, 2], [1, 1], [1, 1]]])
    found = pml.lape(counted(active, [4, 4]), top=0.9, bar=0.5)
    assert members(found["en"]) == {0} and members(found["zh"]) == {1}
    assert all(len(one) == 0 for one in pml.lape(counted(torch.ones(2, 4, 3, dtype=torch.int64), [4] * 3)).values())


def test_of_equals_the_first_are_selected():
    """Entropies of the same shares in other orders: their last bits differ, the neurons are equal."""
    shares = [(1, 2, 6), (6, 1, 2), (2, 6, 1), (2, 1, 6), (6, 2, 1), (1, 6, 2)]
    for shift in range(6):
        active = torch.tensor([shares[shift:] + shares[:shift]])
        found = pml.lape(counted(active, [9] * 3), top=0.5, bar=0.3)
        assert members(found["en"]) | members(found["zh"]) | members(found["sw"]) == {0, 1, 2}


def test_the_lowest():
    """Equal to 12 decimals, and no further."""
    scores = torch.tensor([[0.5 + 1e-13, 0.5, 0.7], [0.5 - 3e-12, 0.5, -0.2]], dtype=torch.float64)
    for count, taken in enumerate([[], [5], [3, 5], [0, 3, 5], [0, 1, 3, 5], [0, 1, 3, 4, 5], [0, 1, 2, 3, 4, 5]]):
        assert select_lowest(scores, count).flatten().nonzero().squeeze(1).tolist() == taken


def test_layout_of_the_published_code(tmp_path):
    found = pml.lape(continuous(0))
    pml.NeuronSet.to_lape(list(found.values()), tmp_path / "a.pth")
    assert pml.NeuronSet.from_lape(tmp_path / "a.pth", 200) == list(found.values())


@pytest.mark.parametrize("method", [pml.lape, pml.ternary])
def test_errors(method):
    statistics = continuous(0)
    with pytest.raises(ValueError, match=r"^one language alone has no entropy over languages: count activations in at"):
        method({"en": statistics["en"]})
    for wrong in (0, 1, -0.1, 1.5, float("nan")):
        for name in ("top", "bar"):
            with pytest.raises(ValueError, match=f"^{name} must be a fraction above 0 and below 1, got {wrong}$"):
                method(statistics, **{name: wrong})
    with pytest.raises(ValueError, match=r"^no counts"):
        method({})
    with pytest.raises(ValueError, match=r"^counts of different models"):
        method({**statistics, "zh": continuous(0, layers=2)["zh"]})
    with pytest.raises(ValueError, match=r"^no positions of 'zh'"):
        method({**statistics, "zh": pml.ActivationStatistics(torch.zeros(5, 200, dtype=torch.int64), 0)})
