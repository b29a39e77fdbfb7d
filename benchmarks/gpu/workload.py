"""The workloads of the GPU benchmarks: a decoder with the shape of Llama-3.1-8B and a batch of documents."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.operators.shapes import GEMMA_4B, LLAMA_31_8B, Shape


@dataclass(frozen=True)
class Workload:
    """A decoder and a batch, and how to measure them.

    Attributes:
        shape: sizes of the decoder and length of a document.
        documents: documents of the batch.
        vocabulary: size of the vocabulary.
        rounds: number of times that runs are repeated.
        small: a smaller layer, which is compared with float64.
        copied: bytes that copies read and write when the copy rate is measured; the last is the rate's definition.
        matrix: rows and columns of the matrices when the rate of matrix products is measured.
        batches: (documents, length) of the other batches with which operators are timed.
        model_batches: (documents, length) of the other batches with which models are timed.
        smaller: sizes of a second decoder.
        normed: sizes of a layer with norms behind its sublayers, with which the operator for these is timed.
        head_sizes: dimensions of a head with which operators on queries and keys are timed.
        inputs: number of inputs with which each operator is compared with float64; None: all.
    """

    shape: Shape
    documents: int
    vocabulary: int
    rounds: int
    small: Shape
    copied: tuple[int, ...]
    matrix: int
    batches: tuple[tuple[int, int], ...]
    model_batches: tuple[tuple[int, int], ...]
    smaller: Shape
    normed: Shape
    head_sizes: tuple[int, ...] = (32, 64, 128, 256)
    inputs: int | None = None

    def shape_of(self, operator: str) -> Shape:
        """Returns the sizes of the layer with which an operator on matrices is timed."""
        return self.normed if operator == "normed_energy" else self.shape


LLAMA_8B = Workload(
    LLAMA_31_8B,
    documents=8,
    vocabulary=128256,
    rounds=9,
    small=Shape("small", hidden=512, layers=1, heads=4, kv_heads=2, ffn=1100, length=150),
    # column_energy of the hidden states, gated_ffn of the FFN, and a copy that is far larger than any cache
    copied=(34 * 10**6, 352 * 10**6, 2**33),
    matrix=8192,
    batches=((100, 40), (400, 40)),
    model_batches=((1, 512), (100, 40)),
    smaller=Shape("Llama-3.2-1B", hidden=2048, layers=16, heads=32, kv_heads=8, ffn=8192, length=512),
    normed=GEMMA_4B,
)
TINY = Shape("tiny", hidden=32, layers=1, heads=2, kv_heads=1, ffn=40, length=16)
REHEARSAL = Workload(
    TINY,
    documents=2,
    vocabulary=20000,
    rounds=2,
    small=replace(TINY, length=17),
    copied=(2**10, 2**12),
    matrix=16,
    batches=((3, 5),),
    model_batches=((1, 16),),
    smaller=replace(TINY, name="tinier", hidden=16),
    normed=replace(TINY, name="normed", hidden=24, size=16, normed=True),
    head_sizes=(16,),
    inputs=1,
)
DTYPE = torch.bfloat16
BACKEND = "triton"  # what is measured, unless a row names another

# The runs of a model. Results files contain these names.
FORWARD = "forward"
COUNTS = "forward + activation counts"
FFN_V_O = "forward + ffn, v, o, counts"
EXACT = "forward + all five sites, exact"
EXACT_CUDA = "forward + all five sites, exact by the CUDA C++ kernel"
FAST = "forward + all five sites, fast"
GRAPHS = ", by CUDA graphs"  # behind the name of a run that measures sites
RUNS = (FORWARD, COUNTS, FFN_V_O, EXACT, EXACT_CUDA, FAST)
# Slower ways to measure the same, and other forwards. They are compared with the first four runs in the second call.
HEAD = "forward with the head"
NEW_NORMS = "forward + ffn, v, o, counts, weights' norms every time"
HOOKS = "forward + ffn, v, o by hooks and plain PyTorch"
RIVALS = (HEAD, NEW_NORMS, HOOKS)


def documents_of(count: int, length: int, device: torch.device) -> Tensor:
    """Returns the document of every token, (count length,), for `count` documents of equal length."""
    return torch.arange(count, device=device).repeat_interleave(length)
