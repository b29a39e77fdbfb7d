"""gated_ffn: the hidden product of an FFN and, in the same pass, the statistics of its neurons in each document.

    hidden = act(gate) * up        in a gated FFN; hidden = act(gate) in a plain FFN, which has no up projection
    squares[c, n]   = sum over the tokens t of document c of hidden[t, n]^2
    active[c, n]    = number of tokens t of document c with act(gate[t, n]) > 0
    magnitude[c, n] = sum over the tokens t of document c of |up[t, n]|, or of |gate[t, n]| in a plain FFN

Masked neurons are 0 in all four results. gate, up and hidden are (tokens, I), documents and mask_ids (tokens,) int64,
masks (sets, I) bool, and the statistics (count, I). A program computes BLOCK_N columns of one document. The first
programs compute the hidden product of padding, which has no statistics. Tiles of gate, up and masks are loaded into
shared memory, STAGES ahead. The sums of a tile, of SPAN tokens and of all tokens stay in registers.

The kernel's arguments gate_row, gate_column, up_row, up_column, mask_row and mask_column are the strides of gate, up
and masks; step is the stride of documents, and mask_step that of mask_ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import triton
import triton.language as tl
from torch import Tensor

from pymultiling.triton_kernels.activations import activate
from pymultiling.triton_kernels.documents import BLOCKS, add_rows, is_member, pick_block, tile, token_range
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
    documents,
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
    step,
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
    document = tl.program_id(0) // blocks - 1  # -1: padding
    columns = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    in_width = columns < width
    first, end, scattered = token_range(documents, step, tokens, count, document)
    row = tl.arange(0, BLOCK_T).to(tl.int64)[:, None]
    column = columns.to(tl.int64)[None, :]
    gate += row * gate_row + column * gate_column
    hidden += row * width + column
    if up is not None:
        up += row * up_row + column * up_column
    if masks is not None:
        # Without this hint Triton gives each thread 16 bytes of masks, and with them 16 columns of all other tensors.
        masks += tl.max_contiguous(columns, VECTOR).to(tl.int64)[None, :] * mask_column

    all_squares = tl.zeros((BLOCK_T // ROWS, BLOCK_N), tl.float32)
    all_active = tl.zeros((BLOCK_T // ROWS, BLOCK_N), tl.int32)
    all_magnitude = tl.zeros((BLOCK_T // ROWS, BLOCK_N), tl.float32)
    for span in range(0, end - first, SPAN):
        span_squares = tl.zeros((BLOCK_T // ROWS, BLOCK_N), tl.float32)
        span_magnitude = tl.zeros((BLOCK_T // ROWS, BLOCK_N), tl.float32)
        for offset in tl.range(0, min(SPAN, end - first - span), BLOCK_T, num_stages=STAGES):
            start = first + span + offset
            t = start + tl.arange(0, BLOCK_T)
            in_document = t < end
            if scattered:
                in_document = is_member(documents, step, t, in_document, count, document)
            cells = in_document[:, None] & in_width[None, :]
            at = start.to(tl.int64)
            x = tl.load(gate + at * gate_row, mask=cells, other=0.0).to(tl.float32)
            linear = x
            if up is not None:
                linear = tl.load(up + at * up_row, mask=cells, other=0.0).to(tl.float32)
            if masks is not None:  # every activation is 0 at 0
                ids = tl.load(mask_ids + t.to(tl.int64) * mask_step, mask=in_document, other=-1)
                set_cells = cells & ((ids >= 0) & (ids < sets))[:, None]
                off = tl.load(masks + ids[:, None] * mask_row, mask=set_cells, other=0)
                x = tl.where(off, 0.0, x)
                linear = tl.where(off, 0.0, linear)
            product = activate(x, ACTIVATION, gate.dtype.element_ty == tl.float32)
            if up is not None:
                product *= linear
            tl.store(hidden + at * width, product.to(hidden.dtype.element_ty), mask=cells)
            span_squares += add_rows(product * product, ROWS)
            all_active += add_rows((x > 0).to(tl.int32), ROWS)  # every activation is positive where its argument is
            span_magnitude += add_rows(tl.abs(linear), ROWS)
        all_squares += span_squares
        all_magnitude += span_magnitude
    if document >= 0:
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launches the kernel. Arguments and results are those of `pymultiling.ops.reference.gated_ffn`."""
    tokens, width = gate.shape
    hidden = torch.empty(tokens, width, dtype=gate.dtype, device=gate.device)
    squares, magnitude = (torch.empty(count, width, dtype=torch.float32, device=gate.device) for _ in range(2))
    active = torch.empty(count, width, dtype=torch.int64, device=gate.device)
    block = pick_block(width, gate.element_size(), count)
    constants = settings(block, gate.element_size(), activation, up is not None, masks is not None)
    arguments = (
        gate, up, documents, masks, mask_ids, hidden, squares, active, magnitude,
        tokens, width, count, 0 if masks is None else len(masks),
        *gate.stride(), *(gate if up is None else up).stride(), *documents.stride(),
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
    """Yields all variants for bfloat16, and a gated silu without masks for the other dtypes.

    warp: threads of a warp.
    """
    for dtype, block in product(POINTERS, BLOCKS):
        for activation, gated, masked in product(("silu", "gelu", "gelu_tanh", "relu"), (True, False), (False, True)):
            if dtype != torch.bfloat16 and (activation, gated, masked) != ("silu", True, False):
                continue
            flags = ("gated" if gated else "plain", *(["masked"] if masked else []))
            absent = {**({} if gated else {"up": None}), **({} if masked else {"masks": None, "mask_ids": None})}
            pointers = {
                **dict.fromkeys(("gate", "up", "hidden"), POINTERS[dtype]),
                **dict.fromkeys(("squares", "magnitude"), "*fp32"),
                **dict.fromkeys(("documents", "mask_ids", "active"), "*i64"),
                "masks": "*i1",
            }
            constants = settings(block, dtype.itemsize, activation, gated, masked)
            yield Variant.of(
                "gated_ffn",
                ", ".join((short_name(dtype), activation, *flags, f"rows of {block[0]} bytes")),
                kernel,
                {name: pointer for name, pointer in pointers.items() if name not in absent},
                constants={
                    **absent,
                    **dict.fromkeys(("gate_column", "up_column", "mask_column", "step", "mask_step"), 1),
                    **constants,
                },
                divisible=("width", "gate_row", "up_row", "mask_row"),
                num_warps=block[1] // warp,
                num_stages=constants["STAGES"],
            )
