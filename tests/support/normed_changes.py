"""The result of normed_energy by its definition, and the size of the terms that round in it."""

from __future__ import annotations

import torch
from torch import Tensor


def by_definition(
    x: Tensor,
    output: Tensor,
    weight: Tensor,
    multiplier: Tensor,
    gram: Tensor,
    scaled_gram: Tensor,
    eps: float,
    single: bool = False,
) -> tuple[Tensor, Tensor]:
    """Returns |y - y'|^2 and the size of what rounds in it, both (tokens, N / G) float64, neuron by neuron.

    y - y' = g f e + g v / r' with e = 1/r - 1/r', whose terms cancel where v is parallel to f. The terms of
    r'^2 = r^2 + (|v|^2 - 2 f.v) / D cancel where little is left of f, so that the rounding of r^2 counts r^2 / r'^2
    times. The columns of a neuron may cancel in v, so that |g v| counts as the sum of their lengths.

    single: every column is a neuron of its own.
    """
    kv_heads, size, group, _ = (x.shape[1], 1, 1, 1) if single else gram.shape
    x, output, weight, multiplier = (tensor.double() for tensor in (x, output, weight, multiplier))

    def length(f: Tensor) -> Tensor:
        return (f.square().mean(1, keepdim=True) + eps).sqrt()

    def normed(f: Tensor) -> Tensor:
        return multiplier * f / length(f)

    changes, terms = [], []
    for k in range(kv_heads):
        for j in range(size):
            columns = [(k * group + g) * size + j for g in range(group)]
            v = x[:, columns] @ weight[:, columns].T
            lengths = x[:, columns].abs() @ (multiplier[:, None] * weight[:, columns]).norm(dim=0)[:, None]
            before, after = length(output), length(output - v)
            changes.append((normed(output) - normed(output - v)).square().sum(1))
            of_f = (multiplier * output * (1 / before - 1 / after)).square().sum(1, keepdim=True)
            condition = (before.square() + v.square().mean(1, keepdim=True)) / after.square()
            terms.append(((of_f + (lengths / after).square()) * condition).squeeze(1))
    return torch.stack(changes, 1), torch.stack(terms, 1)
