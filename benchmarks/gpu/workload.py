"""What is measured on a GPU: a decoder of Llama-3.1-8B's shape on a batch of documents, and inputs of such shapes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.operators.shapes import Shape


@dataclass(frozen=True)
class Workload:
    """A decoder and a batch for it, how often they are run, and a smaller layer to be compared with float64."""

    shape: Shape
    documents: int
    vocabulary: int
    rounds: int
    small: Shape
    copied: int  # bytes, for the ceiling
    matrix: int  # rows and columns, for the ceiling

    @property
    def tokens(self) -> int:
        return self.documents * self.shape.length


LLAMA_8B = Workload(
    Shape("Llama-3.1-8B", hidden=4096, layers=32, heads=32, kv_heads=8, ffn=14336, length=512),
    documents=8,
    vocabulary=128256,
    rounds=9,
    small=Shape("small", hidden=512, layers=1, heads=4, kv_heads=2, ffn=1100, length=150),
    copied=2**32,
    matrix=8192,
)
QUICK = Workload(
    Shape("quick", hidden=64, layers=2, heads=4, kv_heads=2, ffn=96, length=32),
    documents=2,
    vocabulary=128,
    rounds=2,
    small=Shape("small", hidden=32, layers=1, heads=4, kv_heads=2, ffn=70, length=20),
    copied=2**20,
    matrix=64,
)
DTYPE = torch.bfloat16

# The runs of a model
FORWARD = "forward"
HEAD = "forward with the head"
COUNTS = "forward + activation counts"
FFN_V_O = "forward + ffn, v, o, counts"
ANEW = "forward + ffn, v, o, counts, weights' norms every time"
HOOKS = "forward + ffn, v, o by hooks and plain PyTorch"
EXACT = "forward + all five sites, exact"
FAST = "forward + all five sites, fast"
RUNS = (FORWARD, HEAD, COUNTS, FFN_V_O, ANEW, HOOKS, EXACT, FAST)


def kernels_of(device: torch.device) -> str:
    """The backend that is measured."""
    return "triton" if device.type == "cuda" else "cpp"


def documents_of(count: int, length: int, device: torch.device) -> Tensor:
    """(count length,) the document of every token."""
    return torch.arange(count, device=device).repeat_interleave(length)


def attention(
    shape: Shape, documents: int, dtype: torch.dtype, device: torch.device, change=lambda q, k: None
) -> tuple[Tensor | None, ...]:
    """The tensors of `qk_importance`, laid out as a model has them: rotated and plain q and k, tables, valid, no gains.

    change(q, k) may overwrite the plain ones before they are rotated.
    """

    def heads(count: int) -> Tensor:
        return torch.randn(documents, shape.length, count, shape.head_size, device=device).transpose(1, 2)

    q, k = heads(shape.heads), heads(shape.kv_heads)
    change(q, k)
    half = shape.head_size // 2
    frequencies = 500000.0 ** -(torch.arange(0, shape.head_size, 2, device=device) / shape.head_size)
    angles = (torch.arange(shape.length, device=device)[:, None] * frequencies).repeat(1, 2)[None]
    q, k, cos, sin = (x.to(dtype) for x in (q, k, angles.cos(), angles.sin()))
    valid = torch.ones(documents, shape.length, dtype=torch.bool, device=device)
    rotated = (x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin for x in (q, k))
    return *rotated, q, k, cos, sin, valid, None, None
