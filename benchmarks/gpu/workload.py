"""The workloads of the GPU benchmarks: a decoder with the shape of Llama-3.1-8B and a batch of documents."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.operators.shapes import Shape


@dataclass(frozen=True)
class Workload:
    """A decoder and a batch, and how to measure them.

    Attributes:
        shape: sizes of the decoder and length of a document.
        documents: documents of the batch.
        vocabulary: size of the vocabulary.
        rounds: number of times that runs are repeated.
        small: a smaller layer, which is compared with float64.
        copied: bytes to copy when the copy rate is measured.
        matrix: rows and columns of the matrices when the rate of matrix products is measured.
    """

    shape: Shape
    documents: int
    vocabulary: int
    rounds: int
    small: Shape
    copied: int
    matrix: int

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

# The runs of a model. Results files contain these names.
FORWARD = "forward"
HEAD = "forward with the head"
COUNTS = "forward + activation counts"
FFN_V_O = "forward + ffn, v, o, counts"
NEW_NORMS = "forward + ffn, v, o, counts, weights' norms every time"
HOOKS = "forward + ffn, v, o by hooks and plain PyTorch"
EXACT = "forward + all five sites, exact"
FAST = "forward + all five sites, fast"
RUNS = (FORWARD, HEAD, COUNTS, FFN_V_O, NEW_NORMS, HOOKS, EXACT, FAST)


def kernels_of(device: torch.device) -> str:
    """Returns the backend that is measured on a device."""
    return "triton" if device.type == "cuda" else "cpp"


def documents_of(count: int, length: int, device: torch.device) -> Tensor:
    """Returns the document of every token, (count length,), for `count` documents of equal length."""
    return torch.arange(count, device=device).repeat_interleave(length)
