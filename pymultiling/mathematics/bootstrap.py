"""Bootstrap intervals of means over items: how far a value would move with other items of the same kind."""

from __future__ import annotations

import torch
from torch import Tensor

RESAMPLES, LEVEL = 1000, 0.95


def resampling_weights(count: int, resamples: int = RESAMPLES, seed: int = 0) -> Tensor:
    """Draws samples of items with replacement, as weights of the items.

    Args:
        count: number of items, at least 1.
        resamples: number of samples.
        seed: seed of the draws.

    Returns:
        (resamples, count) float64. Each row sums to 1, so that `weights @ values` are the means of the samples.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (resamples, count), generator=generator)
    weights = torch.zeros(resamples, count, dtype=torch.float64)
    return weights.scatter_add_(1, drawn, torch.full(drawn.shape, 1 / count, dtype=torch.float64))


def percentile_interval(values: Tensor, level: float = LEVEL) -> tuple[Tensor, Tensor]:
    """Returns the ends of the interval that holds the middle `level` of the samples' values.

    Args:
        values: (resamples, ...) float64, a value of each sample.
        level: the fraction of the samples between the ends.

    Returns:
        The lower and the upper end, each of shape (...).
    """
    rest = (1 - level) / 2
    low, high = torch.quantile(values, torch.tensor([rest, 1 - rest], dtype=values.dtype), dim=0)
    return low, high
