"""Random inputs of an attention layer, laid out in memory as in a model."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.operators.shapes import Shape
from pymultiling.mathematics.qk_problem import QKProblem

CPU = torch.device("cpu")


def attention(
    shape: Shape,
    documents: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
    change: Callable[[Tensor, Tensor], None] = lambda q, k: None,
) -> QKProblem:
    """Returns an attention problem with random q and k of unit variance, before and after the rotation, without gains.

    Args:
        shape: the sizes of the layer.
        documents: number of documents, all of shape.length tokens.
        dtype: dtype of q, k and the rotation tables.
        device: device of all tensors.
        change: called with q and k before the rotation. It may overwrite them.
    """

    def heads(count: int) -> Tensor:
        return torch.randn(documents, shape.length, count, shape.head_size, device=device).transpose(1, 2)

    q, k = heads(shape.heads), heads(shape.kv_heads)
    change(q, k)
    frequencies = 500000.0 ** -(torch.arange(0, shape.head_size, 2, device=device) / shape.head_size)
    angles = (torch.arange(shape.length, device=device)[:, None] * frequencies).repeat(1, 2)[None]
    q, k, cos, sin = (x.to(dtype) for x in (q, k, angles.cos(), angles.sin()))
    valid = torch.ones(documents, shape.length, dtype=torch.bool, device=device)
    rotated = (rotate(x, cos, sin) for x in (q, k))
    return QKProblem(*rotated, q, k, cos, sin, valid, None, None, shape.head_size**-0.5, None, None, False)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies the rotary position embedding, where dimensions m and m + d/2 rotate together."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin
