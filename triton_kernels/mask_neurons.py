"""mask_neurons: y[t, n] = 0 where mask_ids[t] is a set and masks[mask_ids[t], n], else x[t, n].

x, y (tokens, N), masks (sets, N) bool, mask_ids (tokens,) int64; an id that is no set masks nothing. A program takes a tile;
nothing is kept. In place x is not read: zeros are stored where the mask is on.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from pymultiling.triton_kernels.variant import POINTERS, Variant, short_name, warp_size

ROW_BYTES = 512  # a warp's loads of 16 bytes are one row's
ROWS = 4  # of a tile, of which a thread holds 16 bytes
THREADS = 128


@triton.jit(do_not_specialize=["tokens", "sets"])
def kernel(
    x,
    y,
    masks,
    mask_ids,
    tokens,
    width,
    sets,
    x_row,
    x_column,
    y_row,
    y_column,
    mask_row,
    mask_column,
    mask_step,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    VECTOR: tl.constexpr,
):
    blocks = tl.cdiv(width, BLOCK_N)
    t = tl.program_id(0) // blocks * BLOCK_T + tl.arange(0, BLOCK_T)
    columns = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    cells = (t < tokens)[:, None] & (columns < width)[None, :]
    row, column = t.to(tl.int64)[:, None], columns.to(tl.int64)[None, :]
    if x is not None:
        values = tl.load(x + row * x_row + column * x_column, mask=cells, other=0.0)

    ids = tl.load(mask_ids + t.to(tl.int64) * mask_step, mask=t < tokens, other=-1)[:, None]
    # Unless told, Triton gives each thread 16 bytes of masks, and 16 columns of all else.
    mask_column *= tl.max_contiguous(columns, VECTOR).to(tl.int64)[None, :]
    off = tl.load(masks + ids * mask_row + mask_column, mask=cells & (ids >= 0) & (ids < sets), other=0)

    y += row * y_row + column * y_column
    if x is None:
        tl.store(y, tl.zeros((BLOCK_T, BLOCK_N), y.dtype.element_ty), mask=off)
    else:
        tl.store(y, tl.where(off, 0.0, values), mask=cells)


def settings(itemsize: int) -> dict[str, int]:
    return {"BLOCK_T": ROWS * THREADS * 16 // ROW_BYTES, "BLOCK_N": ROW_BYTES // itemsize, "VECTOR": 16 // itemsize}


def mask_neurons(x: Tensor, masks: Tensor, mask_ids: Tensor) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, y, masks, mask_ids)
    return y


def mask_neurons_(x: Tensor, masks: Tensor, mask_ids: Tensor) -> None:
    _launch(None, x, masks, mask_ids)


def _launch(x: Tensor | None, y: Tensor, masks: Tensor, mask_ids: Tensor) -> None:
    tokens, width = y.shape
    chosen = settings(y.element_size())
    kernel[triton.cdiv(tokens, chosen["BLOCK_T"]) * triton.cdiv(width, chosen["BLOCK_N"]),](
        x, y, masks, mask_ids, tokens, width, len(masks),
        *(y if x is None else x).stride(), *y.stride(), *masks.stride(), *mask_ids.stride(),
        **chosen, num_warps=THREADS // warp_size(y), num_stages=1,
    )  # fmt: skip


def variants(lanes: int = 32) -> Iterator[Variant]:
    for dtype, pointer in POINTERS.items():
        for inplace in (False, True):
            yield Variant.of(
                "mask_neurons_" if inplace else "mask_neurons",
                short_name(dtype),
                kernel,
                {"y": pointer, "masks": "*i1", "mask_ids": "*i64", **({} if inplace else {"x": pointer})},
                constants={
                    **({"x": None} if inplace else {}),
                    **dict.fromkeys(("x_column", "y_column", "mask_column", "mask_step"), 1),
                    **settings(dtype.itemsize),
                },
                divisible=("width", "x_row", "y_row", "mask_row"),
                num_warps=THREADS // lanes,
                num_stages=1,
            )
