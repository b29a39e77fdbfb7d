"""How alike the sentences of two languages are in a layer: translation retrieval and linear CKA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pymultiling.methods.embeddings import checked_layers, layer_points
from pymultiling.ops.arguments import METRICS

if TYPE_CHECKING:
    import pandas

    from pymultiling.ops.arguments import Metric

# If centring reduces the norm of the sentences to at most this fraction, they are all the same, up to rounding.
MIN_NORM = 1e-14
# Rows of the matrix of distances that are in memory at a time, so that memory does not grow with the square of the
# number of sentences.
ROWS = 4096

# Compares two languages: (source, target, points of source, points of target, (sentences,) bool: present in both) gives
# the value from source to target and the value from target to source.
_Comparison: TypeAlias = Callable[[str, str, Tensor, Tensor, Tensor], tuple[float, float]]


@torch.no_grad()
def retrieval(
    embeddings: Mapping[str, Tensor], *, metric: Metric = "cosine", device: torch.device | str | None = None
) -> pandas.DataFrame:
    """Measures for every layer how often a sentence's nearest sentence of another language is its translation.

        accuracy[A, B] = #{i : argmin_j d(a[i], b[j]) = i} / #i,    over the sentences i, j that both languages have

    Distances are computed in float64. Between sentences that are equally near, the rounding of float64 decides.

    Source: arXiv 1812.10464 (similarity search): its error rate is 1 - accuracy with the cosine distance.

    Args:
        embeddings: {language: (sentences, layers + 1, hidden)} of any floating dtype, from `sentence_embeddings`.
            Sentence i of one language is the translation of sentence i of the others. A sentence with a NaN is missing;
            its translation is left out too.
        metric: the distance d, "cosine" or "euclidean".
        device: the device of the computation. None: the device of the embeddings.

    Returns:
        DataFrame with a row for each layer and ordered pair of languages. Columns: layer, source (A), target (B),
        accuracy (0 to 1). The accuracy is NaN if a pair has no sentence in common.

    Raises:
        ValueError: an unknown metric, fewer than two languages, or different numbers of sentences.
        NonFiniteActivations: an embedding is infinite.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    return _table(embeddings, "accuracy", device, lambda: _Retrieval(metric))


@torch.no_grad()
def cka(embeddings: Mapping[str, Tensor], *, device: torch.device | str | None = None) -> pandas.DataFrame:
    """Measures for every layer the linear centred kernel alignment (CKA) of two languages' sentences.

        cka[A, B] = ||B' A||^2 / (||A' A|| ||B' B||)    (Frobenius norms)

    A and B are the (sentences, hidden) matrices of the sentences that both languages have, each column minus its mean.
    CKA is 1 if one matrix is a rotation and scaling of the other. It is symmetric. With fewer sentences than hidden
    values it is high even by chance. It is computed in float64, from matrices of sentences x sentences or hidden x
    hidden, whichever are smaller.

    Source: Kornblith et al. 2019, arXiv 1905.00414, eq. 3 and 4.

    Args:
        embeddings: {language: (sentences, layers + 1, hidden)}, as in `retrieval`.
        device: as in `retrieval`.

    Returns:
        DataFrame with a row for each layer and ordered pair of languages. Columns: layer, source (A), target (B), cka
        (0 to 1). It is NaN if the sentences that a pair has in common are fewer than two or all the same.

    Raises:
        ValueError: fewer than two languages, or different numbers of sentences.
        NonFiniteActivations: an embedding is infinite.
    """
    return _table(embeddings, "cka", device, _Alignment)


def _table(
    embeddings: Mapping[str, Tensor],
    column: str,
    device: torch.device | str | None,
    make_comparison: Callable[[], _Comparison],
) -> pandas.DataFrame:
    """Makes a table with a row for each layer and ordered pair of languages.

    `column` is the name of the compared value. `make_comparison` is called once for each layer.
    """
    import pandas

    layers = checked_layers(embeddings)
    counts = {len(values) for values in embeddings.values()}
    if len(counts) > 1:
        raise ValueError(f"translations have the same number of sentences in every language, got {sorted(counts)}")
    rows = []
    for layer in range(layers):
        values: dict[tuple[str, str], float] = {}
        compare = make_comparison()
        for source, target, a, b, both in _pairs(embeddings, layer, device):
            values[source, target], values[target, source] = compare(source, target, a, b, both)
        order = [(source, target) for source in embeddings for target in embeddings if source != target]
        rows += [(layer, source, target, values[source, target]) for source, target in order]
    return pandas.DataFrame(rows, columns=["layer", "source", "target", column])


def _pairs(
    embeddings: Mapping[str, Tensor], layer: int, device: torch.device | str | None
) -> Iterator[tuple[str, str, Tensor, Tensor, Tensor]]:
    """Yields source, target, their float64 points (sentences, hidden), and a mask of the sentences that both have."""
    points = {
        language: (values.to(device=device or values.device, dtype=torch.float64), present.to(device or present.device))
        for language, (values, present) in layer_points(embeddings, layer).items()
    }
    for (source, (a, present_in_a)), (target, (b, present_in_b)) in combinations(points.items(), 2):
        yield source, target, a, b, present_in_a & present_in_b


class _Retrieval:
    """Computes the accuracy of retrieval in both directions."""

    def __init__(self, metric: Metric):
        self._metric = metric

    def __call__(self, source: str, target: str, a: Tensor, b: Tensor, both: Tensor) -> tuple[float, float]:
        a, b = a[both], b[both]
        if len(a) == 0:
            return float("nan"), float("nan")
        if self._metric == "cosine":
            a, b = normalize(a), normalize(b)
        else:
            a, b = a - b.mean(0), b - b.mean(0)  # the distances stay, and the squares below lose less to rounding
        return _accuracies(a, b)


def _accuracies(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Returns the accuracies from a to b and from b to a, which are (sentences, hidden).

    The distance is |a|^2 + |b|^2 - 2 ab. For points of norm 1 it orders neighbours as the cosine distance does.
    """
    squares_a, squares_b = a.square().sum(1), b.square().sum(1)
    correct = 0
    shortest = nearest = None  # (len(b),): the distance from every b to the nearest a so far, and the index of that a
    for start in range(0, len(a), ROWS):
        block = slice(start, start + ROWS)
        distances = squares_a[block, None] + squares_b - 2 * a[block] @ b.T
        translations = torch.arange(start, start + len(distances), device=a.device)
        correct += int((distances.argmin(1) == translations).sum())
        block_shortest, row = distances.min(0)
        if shortest is None or nearest is None:
            shortest, nearest = block_shortest, row
        else:
            is_shorter = block_shortest < shortest
            shortest = torch.where(is_shorter, block_shortest, shortest)
            nearest = torch.where(is_shorter, row + start, nearest)
    assert nearest is not None  # a has a row
    correct_back = int((nearest == torch.arange(len(b), device=b.device)).sum())
    return correct / len(a), correct_back / len(b)


class _Alignment:
    """Computes CKA, and caches the matrix and the norm of each language.

    The cache is for the sentences that the first pair has in common. Usually all pairs have the same in common.
    """

    def __init__(self) -> None:
        self._cached_both: Tensor | None = None
        self._cache: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, source: str, target: str, a: Tensor, b: Tensor, both: Tensor) -> tuple[float, float]:
        if self._cached_both is None:
            self._cached_both = both
        is_cacheable = torch.equal(both, self._cached_both)
        is_gram = int(both.sum()) <= a.shape[1]
        a, norm_a = self._prepared(source, a, both, is_cacheable)
        b, norm_b = self._prepared(target, b, both, is_cacheable)
        # ||B' A||^2 is also the sum of the products of the entries of A A' and B B', which are (sentences, sentences).
        shared = (a * b).sum() if is_gram else (b.T @ a).square().sum()
        value = float(shared / (norm_a * norm_b))
        return value, value

    def _prepared(self, language: str, x: Tensor, both: Tensor, is_cacheable: bool) -> tuple[Tensor, Tensor]:
        """Returns `_prepare(x[both])`, from the cache if `both` are the sentences of the cache.

        Args:
            language: the name of the language, the key of the cache.
            x: (sentences, hidden), the points of the language.
            both: (sentences,) bool, the sentences that both languages of the pair have.
            is_cacheable: whether `both` are the sentences that the cache is for.
        """
        if not is_cacheable:
            return _prepare(x[both])
        if language not in self._cache:
            self._cache[language] = _prepare(x[both])
        return self._cache[language]


def _prepare(x: Tensor) -> tuple[Tensor, Tensor]:
    """Centres x (sentences, hidden).

    Returns:
        The centred x, or x x' if there are fewer sentences than hidden values; and the norm of x' x, which is that of
        x x' too.
    """
    size = x.norm()
    x = x - x.mean(0)
    if x.norm() <= MIN_NORM * size:
        x = torch.zeros_like(x)
    if len(x) <= x.shape[1]:
        gram = x @ x.T
        return gram, gram.norm()
    return x, (x.T @ x).norm()
