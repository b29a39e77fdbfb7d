"""pml.lape against its equations in plain Python. The helpers also serve the tests of ternary neurons."""

import math
import random

import pytest
import torch

import pymultiling as pml
from pymultiling.methods.lape import select_lowest

LANGUAGES = ("en", "zh", "sw", "tr", "hi")


def statistics_of(active: torch.Tensor, tokens: list[int]) -> dict[str, pml.ActivationStatistics]:
    """Makes statistics from active, (layers, neurons, languages)."""
    columns = zip(LANGUAGES, active.unbind(-1), tokens)
    return {name: pml.ActivationStatistics(counts, token_count) for name, counts, token_count in columns}


def tied_statistics(seed: int) -> tuple[dict[str, pml.ActivationStatistics], dict[str, float]]:
    """Returns small counts, and options of `lape`. Probabilities and entropies are often equal."""
    draw = random.Random(seed)
    layers, neurons, languages = draw.randint(1, 4), draw.randint(2, 12), draw.randint(2, 5)
    tokens = [draw.choice((2, 4, 6)) for _ in range(languages)]
    active = torch.zeros(layers * neurons, languages, dtype=torch.int64)
    for row in active:
        if draw.random() < 0.8:
            row[:] = torch.tensor([draw.randint(0, token_count) for token_count in tokens])
    options = {"top": draw.choice((0.05, 0.2, 0.4, 0.8)), "bar": draw.choice((0.01, 0.3, 0.6, 0.9))}
    return statistics_of(active.view(layers, neurons, languages), tokens), options


def continuous_statistics(seed: int, languages: int = 4, layers: int = 5) -> dict[str, pml.ActivationStatistics]:
    """Returns large counts, hardly ever equal, of neurons active often or rarely, in all languages or in some."""
    generator = torch.Generator().manual_seed(seed)
    often, spread, language_factor = (torch.rand(layers, 200, k, generator=generator) for k in (1, 1, languages))
    return statistics_of(
        (often * language_factor.double() ** (3 * spread) * 10**9).long(), [10**9 + k for k in range(languages)]
    )


def plain_probabilities(statistics: dict[str, pml.ActivationStatistics]) -> list[list[float]]:
    """Returns the probabilities of every neuron, a row each."""
    columns = [[count / counts.tokens for count in counts.active.flatten().tolist()] for counts in statistics.values()]
    return [list(row) for row in zip(*columns)]


def plain_threshold(rows: list[list[float]], bar: float) -> float:
    flat = sorted(value for row in rows for value in row)
    return flat[max(1, round(bar * len(flat))) - 1]


def plain_entropy(row: list[float]) -> float:
    return -sum(p / sum(row) * math.log(p / sum(row)) for p in row if p)


def plain_lowest(values: dict[int, float], count: int) -> set[int]:
    return {neuron for _, neuron in sorted((round(value, 12), neuron) for neuron, value in values.items())[:count]}


def is_doubtful(values: dict[int, float], count: int) -> bool:
    """Whether the last selected value is so close to a rounding limit that the last bit of a logarithm decides."""
    ordered = sorted(values.values())
    return 0 < count <= len(ordered) and abs(ordered[count - 1] * 1e12 % 1 - 0.5) < 0.01


def members(neurons: pml.NeuronSet) -> set[int]:
    return set(neurons.sites["ffn"].flatten().nonzero().squeeze(1).tolist())


@pytest.mark.parametrize("seeds", [range(100), range(100, 200), range(200, 300)])
def test_sets_are_those_of_the_equations(seeds):
    for seed in seeds:
        statistics, options = tied_statistics(seed)
        rows = plain_probabilities(statistics)
        threshold = plain_threshold(rows, options["bar"])
        entropies = {n: plain_entropy(row) for n, row in enumerate(rows) if max(row) > threshold}
        count = round(options["top"] * len(rows))
        if is_doubtful(entropies, count):
            continue
        selected = plain_lowest(entropies, count)
        sets = pml.lape(statistics, **options)
        assert list(sets) == list(statistics)
        for k, name in enumerate(statistics):
            assert members(sets[name]) == {n for n in selected if rows[n][k] > threshold}, (seed, name)


def test_sets_are_those_found_by_hand():
    """Neurons 2 and 3 of 0 ... 3 are active in one language alone, neuron 3 with a probability below the threshold."""
    active = torch.tensor([[[5, 5], [9, 4], [8, 0], [1, 0]]])
    sets = pml.lape(statistics_of(active, [10, 10]), top=0.5, bar=0.5)  # threshold: the 4th of 0 0 .1 .4 .5 .5 .8 .9
    assert members(sets["en"]) == {1, 2} and members(sets["zh"]) == set()
    assert list(sets["en"].sites) == ["ffn"]


@pytest.mark.parametrize("seed", range(5))
def test_the_sets_cover_the_top_fraction(seed):
    sets = pml.lape(continuous_statistics(seed))
    together = members(sets["en"]) | members(sets["zh"]) | members(sets["sw"]) | members(sets["tr"])
    assert len(together) == round(0.01 * 5 * 200)


def test_fewer_neurons_are_selected_where_probabilities_are_equal():
    """Only the first two neurons are above the threshold and can be selected."""
    active = torch.tensor([[[2, 1], [1, 2], [1, 1], [1, 1]]])
    sets = pml.lape(statistics_of(active, [4, 4]), top=0.9, bar=0.5)
    assert members(sets["en"]) == {0} and members(sets["zh"]) == {1}
    equal = statistics_of(torch.ones(2, 4, 3, dtype=torch.int64), [4] * 3)
    assert all(len(neurons) == 0 for neurons in pml.lape(equal).values())


def test_of_neurons_with_equal_entropy_the_first_are_selected():
    """Their entropies differ in the last bits, since the same fractions are added up in other orders."""
    counts = [(1, 2, 6), (6, 1, 2), (2, 6, 1), (2, 1, 6), (6, 2, 1), (1, 6, 2)]
    for shift in range(6):
        active = torch.tensor([counts[shift:] + counts[:shift]])
        sets = pml.lape(statistics_of(active, [9] * 3), top=0.5, bar=0.3)
        assert members(sets["en"]) | members(sets["zh"]) | members(sets["sw"]) == {0, 1, 2}


def test_values_equal_to_12_decimals_are_selected_in_order():
    values = torch.tensor([[0.5 + 1e-13, 0.5, 0.7], [0.5 - 3e-12, 0.5, -0.2]], dtype=torch.float64)
    for count, expected in enumerate([[], [5], [3, 5], [0, 3, 5], [0, 1, 3, 5], [0, 1, 3, 4, 5], [0, 1, 2, 3, 4, 5]]):
        assert select_lowest(values, count).flatten().nonzero().squeeze(1).tolist() == expected


def test_sets_survive_the_file_format_of_the_published_code(tmp_path):
    sets = pml.lape(continuous_statistics(0))
    pml.NeuronSet.to_lape(list(sets.values()), tmp_path / "a.pth")
    assert pml.NeuronSet.from_lape(tmp_path / "a.pth", 200) == list(sets.values())


@pytest.mark.parametrize("method", [pml.lape, pml.ternary])
def test_wrong_arguments_are_refused(method):
    statistics = continuous_statistics(0)
    with pytest.raises(ValueError, match=r"^one language alone has no entropy over languages: count activations in at"):
        method({"en": statistics["en"]})
    for wrong in (0, 1, -0.1, 1.5, float("nan")):
        for name in ("top", "bar"):
            with pytest.raises(ValueError, match=f"^{name} must be a fraction above 0 and below 1, got {wrong}$"):
                method(statistics, **{name: wrong})
    with pytest.raises(ValueError, match=r"^no counts"):
        method({})
    with pytest.raises(ValueError, match=r"^counts of different models"):
        method({**statistics, "zh": continuous_statistics(0, layers=2)["zh"]})
    with pytest.raises(ValueError, match=r"^no positions of 'zh'"):
        method({**statistics, "zh": pml.ActivationStatistics(torch.zeros(5, 200, dtype=torch.int64), 0)})
