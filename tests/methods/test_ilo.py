"""pml.ilo against its definition, written as loops over points."""

import math
import random

import pandas
import pytest
import torch

import pymultiling as pml
from pymultiling.methods.ilo import ilo


def neighbours(points: list[tuple[str, list[float]]], center: int, k: int, metric: str) -> list[int]:
    def distance(a: list[float], b: list[float]) -> float:
        if metric == "euclidean":
            return math.dist(a, b)
        norms = math.hypot(*a) * math.hypot(*b)
        return 1 - sum(x * y for x, y in zip(a, b)) / norms if norms else 1.0

    numbers = [number for number in range(len(points)) if number != center]
    return sorted(numbers, key=lambda number: (round(distance(points[center][1], points[number][1]), 12), number))[:k]


def plain_ilo(embeddings, layer: int, k: int, tau: int, metric: str) -> dict[str, tuple[float, float, float]]:
    points = []
    for language, values in embeddings.items():
        points += [(language, row.tolist()) for row in values[:, layer].double() if not row.isnan().any()]
    results = {}
    for language in embeddings:
        bridges, reached, count = 0, set(), 0
        for number, (owner, _) in enumerate(points):
            if owner == language:
                near = {points[neighbour][0] for neighbour in neighbours(points, number, k, metric)} - {language}
                bridges, reached, count = bridges + (len(near) >= tau), reached | near, count + 1
        bridge, reach = bridges / count, len(reached) / (len(embeddings) - 1)
        results[language] = bridge, reach, 2 * bridge * reach / (bridge + reach) if bridge or reach else 0.0
    return results


def assert_ilo(table: pandas.DataFrame, embeddings, k: int, tau: int, metric: str) -> None:
    layers = next(iter(embeddings.values())).shape[1]
    assert list(table.columns) == ["layer", "language", "bridge", "reach", "ilo"]
    assert len(table) == layers * len(embeddings)
    for layer in range(layers):
        expected = plain_ilo(embeddings, layer, k, tau, metric)
        for _, row in table[table["layer"] == layer].iterrows():
            assert tuple(row[["bridge", "reach", "ilo"]]) == pytest.approx(expected[row["language"]], abs=1e-12)


def random_embeddings(kind: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Embeddings of whole numbers, so that equal distances are exactly equal."""
    generator, sizes = torch.Generator().manual_seed(seed), random.Random(seed)
    embeddings = {}
    for number in range(5):
        points = torch.randint(-40, 41, (sizes.randint(6, 14), 3, 4), generator=generator).double()
        if kind == "clusters":
            points[:, 1] += 150 * torch.eye(4)[number % 4]
            points[:, 2] = points[:, 2] / 10 + 500 * torch.eye(4)[number // 2]
        if kind == "duplicates":
            few = torch.tensor([[1, 2, 3, 4], [5, -1, 0, 2], [-7, 1, 1, 3]]).double()
            points[: len(points) // 2] = few[torch.randint(0, 3, (len(points) // 2, 3), generator=generator)]
        if kind == "missing":
            points[sizes.randrange(len(points))] = torch.nan
        embeddings[f"l{number}"] = points
    return embeddings


@pytest.mark.parametrize("k, tau", [(5, 3), (1, 1), (8, 4)])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", ["random", "clusters", "duplicates", "missing"])
def test_values_are_those_of_the_definition(kind, metric, k, tau):
    embeddings = random_embeddings(kind)
    assert_ilo(ilo(embeddings, k=k, tau=tau, metric=metric), embeddings, k, tau, metric)


def test_half_precision_is_computed_in_float32():
    embeddings = {language: values.half() for language, values in random_embeddings("random").items()}
    widened = {language: values.float() for language, values in embeddings.items()}
    pandas.testing.assert_frame_equal(ilo(embeddings), ilo(widened))


def test_separate_languages_have_0_and_mixed_languages_have_1():
    generator = torch.Generator().manual_seed(0)
    languages = ["a", "b", "c", "d"]
    noise = {name: torch.randn(20, 1, 16, generator=generator) for name in languages}
    apart = {name: values * 0.01 + torch.eye(16)[number] for number, (name, values) in enumerate(noise.items())}
    assert (ilo(apart)[["bridge", "reach", "ilo"]] == 0).all(axis=None)
    meaning = torch.randn(20, 1, 16, generator=generator)
    mixed = {name: meaning + 0.01 * values for name, values in noise.items()}
    assert (ilo(mixed)[["bridge", "reach", "ilo"]] == 1).all(axis=None)


def test_a_point_is_not_its_own_neighbour_where_another_point_is_equal():
    point = torch.ones(1, 1, 4)
    table = ilo({"a": point, "b": point, "c": -point}, k=1, tau=1)
    assert table["bridge"].tolist() == [1, 1, 1] and table["reach"].tolist() == [0.5, 0.5, 0.5]


def test_wrong_arguments_are_refused():
    points = random_embeddings("random")
    with pytest.raises(ValueError, match="at least two languages are compared, got 'l0'"):
        ilo({"l0": points["l0"]})
    with pytest.raises(ValueError, match="5 neighbours need at least 6 sentences, got 5"):
        ilo({name: values[:1] for name, values in points.items()})
    for tau in (0, 6):
        with pytest.raises(ValueError, match="tau must be between 1 and k"):
            ilo(points, tau=tau)
    with pytest.raises(ValueError, match="tau = 5 other languages are more than the 4"):
        ilo(points, tau=5)
    with pytest.raises(ValueError, match="'l1' has no sentences"):
        ilo({"l0": points["l0"], "l1": torch.full((3, 3, 4), torch.nan)}, k=1, tau=1)
    with pytest.raises(ValueError, match="metric"):
        ilo(points, metric="manhattan")
    with pytest.raises(pml.NonFiniteActivations, match="infinite embeddings of language 'l0', index 0"):
        ilo({**points, "l0": torch.full((3, 3, 4), torch.inf)})
