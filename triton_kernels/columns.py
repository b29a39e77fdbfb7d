"""The kernel of column_energy and active_count: sums over the tokens of each document, column by column.

column_energy sums x^2, and active_count sums 1 where x > 0.

x (tokens, N), documents (tokens,) int64 -> sums (count, N). A program computes BLOCK_N columns of one document. Tiles
of x are loaded into shared memory, STAGES ahead. The sums of a tile, of SPAN tokens and of all tokens stay in
registers. The kernel's arguments x_row and x_column are the strides of x, and step is the stride of documents.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from pymultiling.triton_kernels.documents import BLOCKS, add_rows, is_member, pick_block, tile, token_range
from pymultiling.triton_kernels.launching import ceil_div, launch_kernel
from pymultiling.triton_kernels.variant import POINTERS, Variant, short_name, warp_size

ROWS = 4  # rows of a tile of which a thread holds 16 bytes
STAGES = 4  # 2 to 3 tiles of 8 KB are loaded ahead; 8 programs fit on a multiprocessor (64 registers, sm_90)
SPAN = 4096  # tokens: float32 adds up to 128 numbers in a span, and 128 sums of spans in 500,000 tokens


@triton.jit(do_not_specialize=["tokens", "count"])
def kernel(
    x,
    documents,
    sums,
    tokens,
    width,
    count,
    x_row,
    x_column,
    step,
    ACTIVE: tl.constexpr,  # whether to count values above 0, in int32, or to add squares, in float32
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ROWS: tl.constexpr,
    SPAN: tl.constexpr,
    STAGES: tl.constexpr,
):
    DTYPE: tl.constexpr = tl.int32 if ACTIVE else tl.float32
    blocks = tl.cdiv(width, BLOCK_N)
    document = tl.program_id(0) // blocks
    columns = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    in_width = columns < width
    first, end, scattered = token_range(documents, step, tokens, count, document)
    row = tl.arange(0, BLOCK_T).to(tl.int64)[:, None]
    x += row * x_row + columns.to(tl.int64)[None, :] * x_column

    total = tl.zeros((BLOCK_T // ROWS, BLOCK_N), DTYPE)
    for span in range(0, end - first, SPAN):
        partial = tl.zeros((BLOCK_T // ROWS, BLOCK_N), DTYPE)
        for offset in tl.range(0, min(SPAN, end - first - span), BLOCK_T, num_stages=STAGES):
            start = first + span + offset
            t = start + tl.arange(0, BLOCK_T)
            in_document = t < end
            if scattered:
                in_document = is_member(documents, step, t, in_document, count, document)
            values = tl.load(x + start.to(tl.int64) * x_row, mask=in_document[:, None] & in_width[None, :], other=0.0)
            values = values.to(tl.float32)
            partial += add_rows((values > 0).to(DTYPE) if ACTIVE else values * values, ROWS)
        total += partial
    result = tl.sum(total, 0).to(sums.dtype.element_ty)
    tl.store(sums + document.to(tl.int64) * width + columns, result, mask=in_width)


def settings(block: tuple[int, int], itemsize: int) -> dict[str, int]:
    """Returns the kernel's constants for one of BLOCKS and the bytes of a number of x."""
    return {**tile(block, itemsize, ROWS), "SPAN": SPAN, "STAGES": STAGES}


def launch(x: Tensor, documents: Tensor, count: int, active: bool) -> Tensor:
    """Launches the kernel for active_count if `active`, else for column_energy; returns the sums, (count, N)."""
    tokens, width = x.shape
    sums = torch.empty(count, width, dtype=torch.int64 if active else torch.float32, device=x.device)
    block = pick_block(width, x.element_size(), count)
    constants = settings(block, x.element_size())
    launch_kernel(
        kernel,
        count * ceil_div(width, constants["BLOCK_N"]),
        (x, documents, sums, tokens, width, count, *x.stride(), *documents.stride()),
        {"ACTIVE": active, **constants},
        num_warps=block[1] // warp_size(x),
        num_stages=STAGES,
    )
    return sums


def variants_of(operator: str, active: bool, warp: int) -> Iterator[Variant]:
    """Yields the variants of an operator for each dtype and block. warp: threads of a warp."""
    for dtype, pointer in POINTERS.items():
        for block in BLOCKS:
            yield Variant.of(
                operator,
                f"{short_name(dtype)}, rows of {block[0]} bytes",
                kernel,
                {"x": pointer, "documents": "*i64", "sums": "*i64" if active else "*fp32"},
                constants={"x_column": 1, "step": 1, "ACTIVE": active, **settings(block, dtype.itemsize)},
                divisible=("width", "x_row"),
                num_warps=block[1] // warp,
                num_stages=STAGES,
            )
