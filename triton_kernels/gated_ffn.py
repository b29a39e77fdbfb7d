"""gated_ffn: the hidden product of an FFN and, in the same pass, the statistics of its neurons in each document.

    hidden = act(gate) * up        in a gated FFN; hidden = act(gate) in a plain FFN, which has no up projection
    squares[c, n]   = sum over the tokens t of document c of hidden[t, n]^2
    active[c, n]    = number of tokens t of document c with act(gate[t, n]) > 0
    magnitude[c, n] = sum over the tokens t of document c of |up[t, n]|, or of |gate[t, n]| in a plain FFN

Masked neurons are 0 in all four results. gate, up and hidden are (tokens, I), offsets (count + 1,) and order (tokens,)
int32, masks (sets, I) bool, mask_ids (tokens,) int64, and the statistics (count, I). A program computes BLOCK_N columns
of one document. The first programs compute the hidden product of the tokens of no document, which have no statistics.
Tiles of gate, up and masks are loaded into shared memory, STAGES ahead. The sums of a tile, of SPAN tokens and of all
tokens stay in registers.

The kernel's arguments gate_row, gate_column, up_row, up_column, mask_row and mask_column are the strides of gate, up
and masks; mask_step is the stride of mask_ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from pymultiling.triton_kernels.activations import activate
from pymultiling.triton_kernels.documents import (
    BLOCKS,
    add_rows,
    document_pointers,
    find_document,
    find_tokens,
    grouped,
    pick_block,
    tile,
)
from pymultiling.triton_kernels.launching import ceil_div, launch_kernel
from pymultiling.triton_kernels.variant import POINTERS, Variant, short_name, warp_size

ROWS = 2  # rows of a tile of which a thread holds 16 bytes: 4 take 180 registers instead of 96 (sm_90)
STAGES = 3  # 1 to 2 tiles of 8 KB are loaded ahead; 5 programs fit on a multiprocessor
PLAIN_MASKED_STAGES = 2  # STAGES of a plain FFN with masks: with 3, registers spill (8 bytes, Triton 3.6)
SPAN = 2048  # tokens: float32 adds up to 128 numbers in a span, and 128 sums of spans in 250,000 tokens


@triton.jit(do_not_specialize=["tokens", "count", "sets"])
def kernel(
    gate,
    up,
    offsets,
    order,
    masks,
    mask_ids,
    hidden,
    squares,
    active,
    magnitude,
    tokens,
    width,
    count,
    sets,
    gate_row,
    gate_column,
    up_row,
    up_column,
    mask_row,
    mask_column,
    mask_step,
    ACTIVATION: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    VECTOR: tl.constexpr,
    ROWS: tl.constexpr,
    SPAN: tl.constexpr,
    STAGES: tl.constexpr,
):
    blocks = tl.cdiv(width, BLOCK_N)
    document = count - tl.program_id(0) // blocks  # the tokens of no document come first, being many
    columns = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    in_width = columns < width
    begin, length, first, scattered = find_document(offsets, order, tokens, count, document)
    column = columns.to(tl.int64)[None, :]
    gate += column * gate_column
    hidden += column
    if up is not None:
        up += column * up_column
    if masks is not None:
        # Without this hint Triton gives each thread 16 bytes of masks, and with them 16 columns of all other tensors.
        masks += tl.max_contiguous(columns, VECTOR).to(tl.int64)[None, :] * mask_column

    all_squares = tl.zeros((BLOCK_T // ROWS, BLOCK_N), tl.float32)
    all_active = tl.zeros((BLOCK_T // ROWS, BLOCK_N), tl.int32)
    all_magnitude = tl.zeros((BLOCK_T // ROWS, BLOCK_N), tl.float32)
    for span in range(0, length, SPAN):
        span_squares = tl.zeros((BLOCK_T // ROWS, BLOCK_N), tl.float32)
        span_magnitude = tl.zeros((BLOCK_T // ROWS, BLOCK_N), tl.float32)
        for offset in tl.range(0, min(SPAN, length - span), BLOCK_T, num_stages=STAGES):
            i = span + offset + tl.arange(0, BLOCK_T)
            in_document = i < length
            t = find_tokens(order, begin, first, scattered, i, in_document).to(tl.int64)
            row = t[:, None]
            cells = in_document[:, None] & in_width[None, :]
            x = tl.load(gate + row * gate_row, mask=cells, other=0.0).to(tl.float32)
            linear = x
            if up is not None:
                linear = tl.load(up + row * up_row, mask=cells, other=0.0).to(tl.float32)
            if masks is not None:  # every activation is 0 at 0
                ids = tl.load(mask_ids + t * mask_step, mask=in_document, other=-1)
                set_cells = cells & ((ids >= 0) & (ids < sets))[:, None]
                off = tl.load(masks + ids[:, None] * mask_row, mask=set_cells, other=0)
                x = tl.where(off, 0.0, x)
                linear = tl.where(off, 0.0, linear)
            product = activate(x, ACTIVATION, gate.dtype.element_ty == tl.float32)
            if up is not None:
                product *= linear
            tl.store(hidden + row * width, product.to(hidden.dtype.element_ty), mask=cells)
            span_squares += add_rows(product * product, ROWS)
            all_active += add_rows((x > 0).to(tl.int32), ROWS)  # every activation is positive where its argument is
            span_magnitude += add_rows(tl.abs(linear), ROWS)
        all_squares += span_squares
        all_magnitude += span_magnitude
    if document < count:
        at = document.to(tl.int64) * width + columns
        tl.store(squares + at, tl.sum(all_squares, 0), mask=in_width)
        tl.store(active + at, tl.sum(all_active, 0).to(tl.int64), mask=in_width)
        tl.store(magnitude + at, tl.sum(all_magnitude, 0), mask=in_width)


def settings(block: tuple[int, int], itemsize: int, activation: str, gated: bool, masked: bool) -> dict[str, object]:
    """Returns the kernel's constants for one of BLOCKS and the bytes of a number of gate."""
    stages = PLAIN_MASKED_STAGES if masked and not gated else STAGES
    shape = tile(block, itemsize, ROWS)
    return {"ACTIVATION": activation, **shape, "VECTOR": 16 // itemsize, "SPAN": SPAN, "STAGES": stages}


def gated_ffn(
    gate: Tensor,
    up: Tensor | None,
    activation: str,
    documents: Tensor,
    count: int,
    masks: Tensor | None,
    mask_ids: Tensor | None,
    offsets: Tensor | None = None,
    order: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launches the kernel. Arguments and results are those of `pymultiling.ops.reference.gated_ffn`."""
    offsets, order = grouped(documents, count, offsets, order)
    tokens, width = gate.shape
    hidden = torch.empty(tokens, width, dtype=gate.dtype, device=gate.device)
    squares, magnitude = (torch.empty(count, width, dtype=torch.float32, device=gate.device) for _ in range(2))
    active = torch.empty(count, width, dtype=torch.int64, device=gate.device)
    block = pick_block(width, gate.element_size(), count)
    constants = settings(block, gate.element_size(), activation, up is not None, masks is not None)
    arguments = (
        gate, up, offsets, order, masks, mask_ids, hidden, squares, active, magnitude,
        tokens, width, count, 0 if masks is None else len(masks),
        *gate.stride(), *(gate if up is None else up).stride(),
        *((width, 1, 1) if masks is None else (*masks.stride(), *mask_ids.stride())),
    )  # fmt: skip
    launch_kernel(
        kernel,
        (count + 1) * ceil_div(width, constants["BLOCK_N"]),
        arguments,
        constants,
        num_warps=block[1] // warp_size(gate),
        num_stages=constants["STAGES"],
    )
    return hidden, squares, active, magnitude


def variants(warp: int = 32) -> Iterator[Variant]:
    """Yields all variants for bfloat16, and a gated silu without masks for the other dtypes and for tokens in order.

    warp: threads of a warp.
    """
    settings_of_ffn = product(("silu", "gelu", "gelu_tanh", "relu"), (True, False), (False, True))
    for dtype, block, (activation, gated, masked), in_order in product(
        POINTERS, BLOCKS, settings_of_ffn, (False, True)
    ):
        if (dtype != torch.bfloat16 or in_order) and (activation, gated, masked) != ("silu", True, False):
            continue
        flags = (("gated", gated), ("plain", not gated), ("masked", masked), ("in order", in_order))
        document_types, no_order = document_pointers(in_order)
        absent = {
            **no_order,
            **({} if gated else {"up": None}),
            **({} if masked else {"masks": None, "mask_ids": None}),
        }
        pointers = {
            **dict.fromkeys(("gate", "up", "hidden"), POINTERS[dtype]),
            **dict.fromkeys(("squares", "magnitude"), "*fp32"),
            **dict.fromkeys(("mask_ids", "active"), "*i64"),
            "masks": "*i1",
            **document_types,
        }
        constants = settings(block, dtype.itemsize, activation, gated, masked)
        yield Variant.of(
            "gated_ffn",
            ", ".join(
                (short_name(dtype), activation, *(flag for flag, is_on in flags if is_on), f"rows of {block[0]} bytes")
            ),
            kernel,
            {name: pointer for name, pointer in pointers.items() if name not in absent},
            constants={
                **absent,
                **dict.fromkeys(("gate_column", "up_column", "mask_column", "mask_step"), 1),
                **constants,
            },
            divisible=("width", "gate_row", "up_row", "mask_row"),
            num_warps=block[1] // warp,
            num_stages=constants["STAGES"],
        )
