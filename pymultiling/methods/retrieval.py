"""How alike two languages' sentences are in a layer: translations found again, and linear CKA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pymultiling.methods.embeddings import checked_layers, layer_points
from pymultiling.ops.nearest_neighbors import METRICS

if TYPE_CHECKING:
    import pandas

SAME = 1e-14  # of the norm: what rounding leaves of sentences that are all the same, around their mean
ROWS = 4096  # of the scores that are held at a time, so that memory grows with the sentences and not their square


@torch.no_grad()
def retrieval(
    embeddings: Mapping[str, Tensor], *, metric: str = "cosine", device: torch.device | str | None = None
) -> pandas.DataFrame:
    """How often a sentence's nearest sentence of another language is its translation, layer by layer.

        accuracy[A, B] = #{i : argmin_j d(a[i], b[j]) = i} / #i,    over the sentences i, j that both languages have

    In float64, whose rounding decides between sentences that are equally near.

    Args:
        embeddings: {language: (sentences, layers, hidden)}, as of `sentence_embeddings`: sentence i of one language is
            the translation of sentence i of the others. One with a NaN is missing, and left out with its translation.
        metric: "cosine" or "euclidean".
        device: where it is computed; where the embeddings are, if None.

    Returns:
        DataFrame with a row for each layer and ordered pair of languages: layer, source, target, accuracy; NaN where a
        pair has no sentence in common.

    Raises:
        ValueError: another metric, fewer than two languages, or different numbers of sentences.
        NonFiniteActivations: an embedding is infinite.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    return _table(embeddings, "accuracy", device, lambda: _Retrieval(metric))


@torch.no_grad()
def cka(embeddings: Mapping[str, Tensor], *, device: torch.device | str | None = None) -> pandas.DataFrame:
    """Linear centred kernel alignment of two languages' sentences, layer by layer.

        cka[A, B] = ||B' A||^2 / (||A' A|| ||B' B||)    (Frobenius)

    with A and B the (sentences, hidden) of the sentences that both have, each column less its mean. 1 where one is a
    rotation and scaling of the other; symmetric; with fewer sentences than hidden values it is high even by chance. In
    float64, from matrices of sentences x sentences or hidden x hidden, whichever are smaller. Source: Kornblith et al.
    2019 (arXiv 1905.00414).

    Args:
        embeddings, device: as in `retrieval`.

    Returns:
        DataFrame with a row for each layer and ordered pair of languages: layer, source, target, cka; NaN where the
        sentences that a pair has in common are fewer than two or all the same.

    Raises:
        ValueError, NonFiniteActivations: as `retrieval`.
    """
    return _table(embeddings, "cka", device, _Alignment)


def _table(embeddings: Mapping[str, Tensor], name: str, device, make: Callable) -> pandas.DataFrame:
    """A row for each layer and ordered pair; make() gives what compares the pairs of a layer."""
    import pandas

    layers = checked_layers(embeddings)
    counts = {len(one) for one in embeddings.values()}
    if len(counts) > 1:
        raise ValueError(f"translations have the same number of sentences in every language, got {sorted(counts)}")
    rows = []
    for layer in range(layers):
        of_pairs, compare = {}, make()
        for source, target, pair in _pairs(embeddings, layer, device):
            of_pairs[source, target], of_pairs[target, source] = compare(source, target, *pair)
        order = [(source, target) for source in embeddings for target in embeddings if source != target]
        rows += [(layer, *pair, of_pairs[pair]) for pair in order]
    return pandas.DataFrame(rows, columns=["layer", "source", "target", name])


def _pairs(embeddings: Mapping[str, Tensor], layer: int, device) -> Iterator[tuple[str, str, tuple]]:
    """Every two languages: their names, float64 points, and which of the sentences both have."""
    points = {
        language: (values.to(device=device or values.device, dtype=torch.float64), present.to(device or present.device))
        for language, (values, present) in layer_points(embeddings, layer).items()
    }
    for (source, (a, in_a)), (target, (b, in_b)) in combinations(points.items(), 2):
        yield source, target, (a, b, in_a & in_b)


class _Retrieval:
    def __init__(self, metric: str):
        self.metric = metric

    def __call__(self, source: str, target: str, a: Tensor, b: Tensor, both: Tensor) -> tuple[float, float]:
        a, b = a[both], b[both]
        if len(a) == 0:
            return float("nan"), float("nan")
        if self.metric == "cosine":
            a, b = normalize(a), normalize(b)
        else:
            a, b = a - b.mean(0), b - b.mean(0)  # distances stay, and what the squares below lose to rounding is less
        return _accuracies(a, b)


def _accuracies(a: Tensor, b: Tensor) -> tuple[float, float]:
    """From a to b and back, by the distance |a|^2 + |b|^2 - 2 ab; norms of 1 make it that of the cosine."""
    squares_a, squares_b = a.square().sum(1), b.square().sum(1)
    right, best, nearest = 0, None, None
    for start in range(0, len(a), ROWS):
        place = slice(start, start + ROWS)
        distances = squares_a[place, None] + squares_b - 2 * a[place] @ b.T
        own = torch.arange(start, start + len(distances), device=a.device)
        right += int((distances.argmin(1) == own).sum())
        low, row = distances.min(0)
        if best is None:
            best, nearest = low, row
        else:
            better = low < best
            best, nearest = torch.where(better, low, best), torch.where(better, row + start, nearest)
    back = int((nearest == torch.arange(len(b), device=b.device)).sum())
    return right / len(a), back / len(b)


class _Alignment:
    """Keeps what belongs to a language alone, for the pairs with the same sentences as the first pair: all, mostly."""

    def __init__(self) -> None:
        self.both: Tensor | None = None
        self.kept: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, source: str, target: str, a: Tensor, b: Tensor, both: Tensor) -> tuple[float, float]:
        if self.both is None:
            self.both = both
        squares = int(both.sum()) <= a.shape[1]
        a, norm_a = self._prepared(source, a, both)
        b, norm_b = self._prepared(target, b, both)
        # ||B' A||^2 is the sum of the products of the entries of A A' and B B'.
        shared = (a * b).sum() if squares else (b.T @ a).square().sum()
        value = float(shared / (norm_a * norm_b))
        return value, value

    def _prepared(self, language: str, x: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.equal(both, self.both):
            return _prepared(x[both])
        if language not in self.kept:
            self.kept[language] = _prepared(x[both])
        return self.kept[language]


def _prepared(x: Tensor) -> tuple[Tensor, Tensor]:
    """Centred x, or x x' where that is smaller, and the norm of x' x, which is that of x x'."""
    size = x.norm()
    x = x - x.mean(0)
    if x.norm() <= SAME * size:
        x = torch.zeros_like(x)
    if len(x) <= x.shape[1]:
        gram = x @ x.T
        return gram, gram.norm()
    return x, (x.T @ x).norm()
