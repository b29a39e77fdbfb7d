"""Interlingual local overlap: how far languages mix in the neighbourhoods of sentences (arXiv 2503.11280)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pymultiling.methods.embeddings import checked_layers, layer_points
from pymultiling.ops import nearest_neighbors

if TYPE_CHECKING:
    import pandas

K, TAU = 5, 3  # arXiv 2503.11280


@torch.no_grad()
def ilo(
    embeddings: Mapping[str, Tensor],
    *,
    k: int = K,
    tau: int = TAU,
    metric: str = "cosine",
    device: torch.device | str | None = None,
) -> pandas.DataFrame:
    """How far each language's sentences lie among those of other languages, layer by layer.

    The sentences of all languages are points. With N(x) the languages other than x's own among x's k nearest points,

        bridge[L] = #{x of L : |N(x)| >= tau} / #{x of L}
        reach[L]  = |union of N(x) over x of L| / (languages - 1)
        ilo[L]    = 2 bridge reach / (bridge + reach),    0 where both are 0

    A point is no neighbour of its own. In the published code it drops out as the nearest of all, which can be another
    point where two are the same; else these are its numbers. Source: arXiv 2503.11280 (k = 5, tau = 3, cosine) and its
    published code.

    Args:
        embeddings: {language: (sentences, layers, hidden)}, as of `sentence_embeddings`; languages may have different
            numbers of sentences. A sentence with a NaN is missing and is left out.
        k: neighbours of a point.
        tau: how many other languages make a point a bridge.
        metric: "cosine" or "euclidean".
        device: where the neighbours are found; where the embeddings are, if None.

    Returns:
        DataFrame with a row for each layer and language: layer, language, bridge, reach, ilo.

    Raises:
        ValueError: one language only, a language without sentences, fewer than k + 1 points, or a tau that no point can
            reach.
        NonFiniteActivations: an embedding is infinite.
    """
    import pandas

    layers = checked_layers(embeddings)
    check_k_and_tau(k, tau, len(embeddings))
    rows = []
    for layer in range(layers):
        points, owner = _points(embeddings, layer)
        if len(points) < k + 1:
            raise ValueError(f"{k} neighbours need at least {k + 1} sentences, got {len(points)}")
        neighbours, _ = nearest_neighbors(points.to(device or points.device), k, metric=metric)
        near = _other_languages(neighbours.cpu(), owner, len(embeddings))
        for number, language in enumerate(embeddings):
            of_language = near[owner == number]
            bridge = float((of_language.sum(1) >= tau).double().mean())
            reach = int(of_language.any(0).sum()) / (len(embeddings) - 1)
            overlap = 2 * bridge * reach / (bridge + reach) if bridge + reach else 0.0
            rows.append((layer, language, bridge, reach, overlap))
    return pandas.DataFrame(rows, columns=["layer", "language", "bridge", "reach", "ilo"])


def check_k_and_tau(k: int, tau: int, languages: int) -> None:
    """ValueError where no point of these can be a bridge."""
    if languages < 2:
        raise ValueError(f"at least two languages are compared, got {languages}")
    if not 1 <= tau <= k:
        raise ValueError(f"tau must be between 1 and k = {k}, the number of neighbours, got {tau}")
    if tau > languages - 1:
        raise ValueError(
            f"tau = {tau} other languages are more than the {languages - 1} that there are: give a lower tau"
        )


def _points(embeddings: Mapping[str, Tensor], layer: int) -> tuple[Tensor, Tensor]:
    """(P, hidden) of all languages together, and (P,) the number of each point's language."""
    of_languages = []
    for language, (points, present) in layer_points(embeddings, layer).items():
        if not present.any():
            raise ValueError(f"language {language!r} has no sentences")
        of_languages.append(points[present])
    sizes = torch.tensor([len(one) for one in of_languages])
    return torch.cat(of_languages), torch.arange(len(sizes)).repeat_interleave(sizes)


def _other_languages(neighbours: Tensor, owner: Tensor, languages: int) -> Tensor:
    """(P, languages) bool: the other languages among the neighbours (P, k) of each point."""
    near = torch.zeros(len(owner), languages, dtype=torch.bool)
    near.scatter_(1, owner[neighbours], True)
    near.scatter_(1, owner[:, None], False)
    return near
