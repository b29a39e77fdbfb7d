"""value_energy: the importance of value neurons, which reach the output through the G query heads that share them.

    energy[c, k d + j] = sum_{t in c} sum_{g, h} a[t, (kG + g) d + j] a[t, (kG + h) d + j] gram[k, j, g, h]

a (tokens, K G d), offsets (count + 1,) and order (tokens,) int32, gram (K, d, G, G) -> energy (count, K d) float32. A
program computes BLOCK_J dimensions of a key head in one document. For each token and dimension the sum over g and h
comes first. It is a square, so nothing cancels between tokens. Tiles of a are loaded into shared memory, STAGES ahead.
gram (for up to UNROLLED heads), the products and the sums stay in registers.

The kernel's arguments row and column are the strides of a, and gram_k, gram_j, gram_g and gram_h those of gram.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from pymultiling.triton_kernels.documents import add_rows, document_pointers, find_document, find_tokens, grouped
from pymultiling.triton_kernels.launching import ceil_div, launch_kernel
from pymultiling.triton_kernels.variant import POINTERS, Variant, short_name, warp_size

BLOCK_J = 32  # dimensions of a program; small, because programs are few: 4 per document and key head of 128 dimensions
THREADS = 256
ROWS = 2  # rows of a tile of which a thread holds VECTOR columns
STAGES = 3  # 1 to 2 tiles of 8 or 16 KB are loaded ahead
SPAN = 8192  # tokens: float32 adds up to 256 numbers in a span, and 256 sums of spans in 2,000,000 tokens
UNROLLED = 8  # largest number of query heads per key head whose gram stays in registers


@triton.jit
def load_head(attention, g, size, column, cells):
    """Returns query head g of a tile, (BLOCK_T, BLOCK_J) float32, 0 where `cells` is False."""
    return tl.load(attention + g * size * column, mask=cells, other=0.0).to(tl.float32)


@triton.jit
def load_gram(gram, gram_g, gram_h, in_size, GROUP: tl.constexpr):
    """Returns (1, BLOCK_J) values of gram for every pair of heads h <= g; pairs of two different heads count twice."""
    pairs = ()
    for g in tl.static_range(GROUP):
        for h in tl.static_range(g):
            pair = tl.load(gram + g * gram_g + h * gram_h, mask=in_size, other=0.0).to(tl.float32)
            pair += tl.load(gram + h * gram_g + g * gram_h, mask=in_size, other=0.0).to(tl.float32)
            pairs = pairs + (pair[None, :],)  # noqa: RUF005, Triton does not unpack tuples
        pair = tl.load(gram + g * (gram_g + gram_h), mask=in_size, other=0.0).to(tl.float32)
        pairs = pairs + (pair[None, :],)  # noqa: RUF005, Triton does not unpack tuples
    return pairs


@triton.jit(do_not_specialize=["tokens", "count"])
def kernel(
    attention,
    gram,
    offsets,
    order,
    energy,
    tokens,
    count,
    kv_heads,
    size,
    row,
    column,
    gram_k,
    gram_j,
    gram_g,
    gram_h,
    GROUP: tl.constexpr,
    UNROLLED: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_J: tl.constexpr,
    ROWS: tl.constexpr,
    SPAN: tl.constexpr,
    STAGES: tl.constexpr,
):
    blocks = tl.cdiv(size, BLOCK_J)
    document = tl.program_id(0) // (kv_heads * blocks)
    k = tl.program_id(0) // blocks % kv_heads
    j = tl.program_id(0) % blocks * BLOCK_J + tl.arange(0, BLOCK_J)
    in_size = j < size
    begin, length, first, scattered = find_document(offsets, order, tokens, count, document)
    columns = (k * GROUP * size).to(tl.int64) + tl.max_contiguous(j, VECTOR)
    attention += columns[None, :] * column
    gram += k.to(tl.int64) * gram_k + j.to(tl.int64) * gram_j
    if GROUP <= UNROLLED:
        pairs = load_gram(gram, gram_g, gram_h, in_size, GROUP)

    total = tl.zeros((BLOCK_T // ROWS, BLOCK_J), tl.float32)
    for span in range(0, length, SPAN):
        partial = tl.zeros((BLOCK_T // ROWS, BLOCK_J), tl.float32)
        for offset in tl.range(0, min(SPAN, length - span), BLOCK_T, num_stages=STAGES):
            i = span + offset + tl.arange(0, BLOCK_T)
            in_document = i < length
            t = find_tokens(order, begin, first, scattered, i, in_document).to(tl.int64)
            cells = in_document[:, None] & in_size[None, :]
            here = attention + t[:, None] * row
            square = tl.zeros((BLOCK_T, BLOCK_J), tl.float32)
            if GROUP <= UNROLLED:
                heads = ()
                for g in tl.static_range(GROUP):
                    heads = heads + (load_head(here, g, size, column, cells),)  # noqa: RUF005, Triton does not unpack tuples
                for g in tl.static_range(GROUP):
                    product = tl.zeros((BLOCK_T, BLOCK_J), tl.float32)
                    for h in tl.static_range(g + 1):
                        product += heads[h] * pairs[g * (g + 1) // 2 + h]
                    square += heads[g] * product
            else:
                for g in range(GROUP):
                    product = tl.zeros((BLOCK_T, BLOCK_J), tl.float32)
                    for h in range(GROUP):
                        pair = tl.load(gram + g * gram_g + h * gram_h, mask=in_size, other=0.0).to(tl.float32)
                        product += load_head(here, h, size, column, cells) * pair[None, :]
                    square += load_head(here, g, size, column, cells) * product
            # Tokens outside of the document are 0, and 0 times an infinite gram would be NaN.
            partial += add_rows(tl.where(in_document[:, None], square, 0.0), ROWS)
        total += partial
    at = (document.to(tl.int64) * kv_heads + k) * size + j
    tl.store(energy + at, tl.sum(total, 0), mask=in_size)


def settings(group: int, itemsize: int) -> dict[str, int]:
    """Returns the kernel's constants for a number of query heads per key head and the bytes of a number of attention.

    With more heads a thread holds fewer columns, because gram needs more registers for each: 3, 15, 36 for 2, 5, 8
    heads.
    """
    vector = min(16 // itemsize, 8 if group <= 2 else 4 if group <= 5 else 2)
    return {
        "GROUP": group,
        "UNROLLED": UNROLLED,
        "VECTOR": vector,
        "BLOCK_T": ROWS * THREADS * vector // BLOCK_J,
        "BLOCK_J": BLOCK_J,
        "ROWS": ROWS,
        "SPAN": SPAN,
        "STAGES": STAGES,
    }


def value_energy(
    attention: Tensor,
    gram: Tensor,
    documents: Tensor,
    count: int,
    offsets: Tensor | None = None,
    order: Tensor | None = None,
) -> Tensor:
    """Launches the kernel. Arguments and results are those of `pymultiling.ops.reference.value_energy`."""
    offsets, order = grouped(documents, count, offsets, order)
    kv_heads, size, group, _ = gram.shape
    energy = torch.empty(count, kv_heads * size, dtype=torch.float32, device=attention.device)
    arguments = (
        attention, gram, offsets, order, energy, len(attention), count, kv_heads, size,
        *attention.stride(), *gram.stride(),
    )  # fmt: skip
    launch_kernel(
        kernel,
        count * kv_heads * ceil_div(size, BLOCK_J),
        arguments,
        settings(group, attention.element_size()),
        num_warps=THREADS // warp_size(attention),
        num_stages=STAGES,
    )
    return energy


def variants(warp: int = 32) -> Iterator[Variant]:
    """Yields, for bfloat16, all numbers of heads that are unrolled and one that is not; for other dtypes 4 heads.

    With 4 heads also for tokens in the order of their documents. warp: threads of a warp.
    """
    groups = range(1, UNROLLED + 2)
    for dtype, group, in_order in product(POINTERS, groups, (False, True)):
        if (dtype != torch.bfloat16 or in_order) and group != 4:
            continue
        pointers, absent = document_pointers(in_order)
        yield Variant.of(
            "value_energy",
            f"{short_name(dtype)}, {group} heads a key head" + (", in order" if in_order else ""),
            kernel,
            {"attention": POINTERS[dtype], "gram": "*fp32", **pointers, "energy": "*fp32"},
            constants={**absent, "column": 1, "gram_h": 1, **settings(group, dtype.itemsize)},
            divisible=("size", "row", "gram_k"),
            num_warps=THREADS // warp,
            num_stages=STAGES,
        )
