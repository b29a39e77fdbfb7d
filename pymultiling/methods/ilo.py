"""Interlingual local overlap (ILO): how far languages mix in the neighbourhoods of sentences (arXiv 2503.11280)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pymultiling.methods.embeddings import checked_layers, layer_points
from pymultiling.ops.nearest_neighbors import nearest_neighbors

if TYPE_CHECKING:
    import pandas

    from pymultiling.ops.arguments import Metric

K, TAU = 5, 3  # the values of the paper


@torch.no_grad()
def ilo(
    embeddings: Mapping[str, Tensor],
    *,
    k: int = K,
    tau: int = TAU,
    metric: Metric = "cosine",
    device: torch.device | str | None = None,
) -> pandas.DataFrame:
    """Measures for every layer how far each language's sentences lie among those of other languages.

    The sentences of all languages are points of one space. N(x) are the languages, other than that of x, of the k
    points that are nearest to x:

        bridge[L] = #{x of L : |N(x)| >= tau} / #{x of L}
        reach[L]  = |union of N(x) over x of L| / (languages - 1)
        ilo[L]    = 2 bridge reach / (bridge + reach),    0 where both are 0

    A point is never its own neighbour. The published code drops the nearest of the k + 1 nearest points instead,
    which can be another point if two points are equal. Otherwise the numbers are the same.

    Source: arXiv 2503.11280 (k = 5, tau = 3, cosine distance) and its published code.

    Args:
        embeddings: {language: (sentences, layers + 1, hidden)} of any floating dtype, from `sentence_embeddings`.
            Languages may have different numbers of sentences. A sentence with a NaN is missing and is left out.
        k: number of neighbours of a point.
        tau: number of other languages that makes a point a bridge, at most k and at most languages - 1.
        metric: the distance, "cosine" or "euclidean".
        device: the device on which the neighbours are found. None: the device of the embeddings.

    Returns:
        DataFrame with a row for each layer and language. Columns: layer, language, bridge, reach, ilo (each 0 to 1).

    Raises:
        ValueError: fewer than two languages; a language without sentences; fewer than k + 1 points; a tau that no point
            can reach; an unknown metric.
        NonFiniteActivations: an embedding is infinite.
    """
    import pandas

    layers = checked_layers(embeddings)
    check_k_and_tau(k, tau, len(embeddings))
    rows = []
    for layer in range(layers):
        neighbours = neighbour_languages(embeddings, layer, k, metric, device)
        for language, has_neighbour in neighbours.items():
            (values,) = overlap_of_samples(has_neighbour, torch.ones(1, len(has_neighbour)), tau).tolist()
            rows.append((layer, language, *values))
    return pandas.DataFrame(rows, columns=["layer", "language", "bridge", "reach", "ilo"])


def neighbour_languages(
    embeddings: Mapping[str, Tensor], layer: int, k: int, metric: Metric, device: torch.device | str | None
) -> dict[str, Tensor]:
    """Finds the languages of the neighbours of every sentence in one layer.

    Args:
        embeddings: as in `ilo`.
        layer: index in their second dimension.
        k: as in `ilo`.
        metric: as in `ilo`.
        device: as in `ilo`.

    Returns:
        {language: (sentences, languages) bool}, without missing sentences: whether a neighbour of the sentence is in
        the other language; False for its own.

    Raises:
        ValueError: a language has no sentences, or all have fewer than k + 1.
    """
    points, point_languages = _points(embeddings, layer)
    if len(points) < k + 1:
        raise ValueError(f"{k} neighbours need at least {k + 1} sentences, got {len(points)}")
    neighbours, _ = nearest_neighbors(points.to(device or points.device), k, metric=metric)
    has_neighbour = _other_languages(neighbours.cpu(), point_languages, len(embeddings))
    return {language: has_neighbour[point_languages == number] for number, language in enumerate(embeddings)}


def overlap_of_samples(has_neighbour: Tensor, weights: Tensor, tau: int) -> Tensor:
    """Computes bridge, reach and ILO of a language for samples of its sentences.

    Args:
        has_neighbour: (sentences, languages) bool, as `neighbour_languages` finds them.
        weights: (samples, sentences), how often each sentence is in a sample, up to a factor.
        tau: as in `ilo`.

    Returns:
        (samples, 3) float64: bridge, reach and ILO.
    """
    weights = weights.double()
    bridge = weights @ (has_neighbour.sum(1) >= tau).double() / weights.sum(1)
    reach = (weights @ has_neighbour.double() > 0).sum(1) / (has_neighbour.shape[1] - 1)
    both = bridge + reach
    return torch.stack([bridge, reach, torch.where(both > 0, 2 * bridge * reach / both.clamp_min(1e-300), 0.0)], 1)


def check_k_and_tau(k: int, tau: int, languages: int) -> None:
    """Raises ValueError if no point can be a bridge with this k, tau and number of languages."""
    if languages < 2:
        raise ValueError(f"at least two languages are compared, got {languages}")
    if not 1 <= tau <= k:
        raise ValueError(f"tau must be between 1 and k = {k}, the number of neighbours, got {tau}")
    if tau > languages - 1:
        raise ValueError(
            f"tau = {tau} other languages are more than the {languages - 1} that there are: give a lower tau"
        )


def _points(embeddings: Mapping[str, Tensor], layer: int) -> tuple[Tensor, Tensor]:
    """Collects the points of all languages, without missing sentences.

    Returns:
        (P, hidden), the points, and (P,) int64, the index of each point's language in `embeddings`.

    Raises:
        ValueError: a language has no sentences.
    """
    points_by_language = []
    for language, (points, present) in layer_points(embeddings, layer).items():
        if not present.any():
            raise ValueError(f"language {language!r} has no sentences: leave it out")
        points_by_language.append(points[present])
    sizes = torch.tensor([len(points) for points in points_by_language])
    return torch.cat(points_by_language), torch.arange(len(sizes)).repeat_interleave(sizes)


def _other_languages(neighbours: Tensor, point_languages: Tensor, languages: int) -> Tensor:
    """Finds the other languages among the neighbours of each point.

    Args:
        neighbours: (P, k) int64, the indices of the neighbours of each point.
        point_languages: (P,) int64, the index of each point's language.
        languages: how many languages there are.

    Returns:
        (P, languages) bool; False for the language of the point itself.
    """
    has_neighbour = torch.zeros(len(point_languages), languages, dtype=torch.bool)
    has_neighbour.scatter_(1, point_languages[neighbours], True)
    has_neighbour.scatter_(1, point_languages[:, None], False)
    return has_neighbour
