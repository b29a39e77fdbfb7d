"""mask_neurons: changes, in each row, the neurons of the set that is selected for the row.

    y[t, n] = scale x[t, n] + values[n]    if 0 <= mask_ids[t] < sets and masks[mask_ids[t], n]
    y[t, n] = x[t, n]                      otherwise

x and y are (tokens, N), masks (sets, N) bool, mask_ids (tokens,) int64, values (N,) or None. A program computes one
tile. In place, only the selected neurons are stored, and with scale 0 x is not read.

The kernel gets None for scale 0. Its arguments x_row, x_column, y_row, y_column, mask_row and mask_column are the
strides of x, y and masks; mask_step is the stride of mask_ids.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from pymultiling.triton_kernels.launching import ceil_div, launch_kernel
from pymultiling.triton_kernels.variant import POINTERS, Variant, short_name, warp_size

ROW_BYTES = 512  # the 16-byte loads of a warp lie in one row
ROWS = 4  # rows of a tile of which a thread holds 16 bytes
THREADS = 128


@triton.jit(do_not_specialize=["tokens", "sets"])
def kernel(
    x,
    y,
    masks,
    mask_ids,
    values,
    scale,
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
    INPLACE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    VECTOR: tl.constexpr,
):
    blocks = tl.cdiv(width, BLOCK_N)
    t = tl.program_id(0) // blocks * BLOCK_T + tl.arange(0, BLOCK_T)
    columns = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    cells = (t < tokens)[:, None] & (columns < width)[None, :]
    row, column = t.to(tl.int64)[:, None], columns.to(tl.int64)[None, :]
    if not INPLACE or scale is not None:
        before = tl.load(x + row * x_row + column * x_column, mask=cells, other=0.0)

    ids = tl.load(mask_ids + t.to(tl.int64) * mask_step, mask=t < tokens, other=-1)[:, None]
    # Without this hint Triton gives each thread 16 bytes of masks, and with them 16 columns of all other tensors.
    column_offsets = mask_column * tl.max_contiguous(columns, VECTOR).to(tl.int64)[None, :]
    selected = tl.load(masks + ids * mask_row + column_offsets, mask=cells & (ids >= 0) & (ids < sets), other=0)

    y += row * y_row + column * y_column
    after = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
    if scale is not None:
        after = scale * before.to(tl.float32)
    if values is not None:
        after += tl.load(values + columns, mask=columns < width, other=0.0).to(tl.float32)[None, :]
    after = after.to(y.dtype.element_ty)
    if INPLACE:
        tl.store(y, after, mask=selected)
    else:
        tl.store(y, tl.where(selected, after, before), mask=cells)


def settings(itemsize: int) -> dict[str, int]:
    """Returns the kernel's constants for the bytes of a number of x."""
    return {"BLOCK_T": ROWS * THREADS * 16 // ROW_BYTES, "BLOCK_N": ROW_BYTES // itemsize, "VECTOR": 16 // itemsize}


def mask_neurons(
    x: Tensor, masks: Tensor, mask_ids: Tensor, scale: float = 0.0, values: Tensor | None = None
) -> Tensor:
    """Launches the kernel. Arguments and results are those of `pymultiling.ops.reference.mask_neurons`."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, y, masks, mask_ids, scale, values)
    return y


def mask_neurons_(x: Tensor, masks: Tensor, mask_ids: Tensor, scale: float = 0.0, values: Tensor | None = None) -> None:
    """Launches the kernel in place. The arguments are those of `pymultiling.ops.reference.mask_neurons`."""
    if values is not None and torch._C._is_alias_of(values, x):
        values = values.clone()  # values that are a part of x must not change while x is written
    _launch(x, x, masks, mask_ids, scale, values)


def _launch(
    x: Tensor, y: Tensor, masks: Tensor, mask_ids: Tensor, scale: float = 0.0, values: Tensor | None = None
) -> None:
    """Writes the result for x into y, which may be x."""
    tokens, width = y.shape
    constants = settings(y.element_size())
    arguments = (
        x, y, masks, mask_ids, values if values is None else values.contiguous(), scale or None, tokens, width,
        len(masks), *x.stride(), *y.stride(), *masks.stride(), *mask_ids.stride(),
    )  # fmt: skip
    launch_kernel(
        kernel,
        ceil_div(tokens, constants["BLOCK_T"]) * ceil_div(width, constants["BLOCK_N"]),
        arguments,
        {"INPLACE": x is y, **constants},
        num_warps=THREADS // warp_size(y),
        num_stages=1,
    )


def variants(warp: int = 32) -> Iterator[Variant]:
    """Yields the variants for each dtype, in place or not, zeroed or scaled with values added.

    warp: threads of a warp.
    """
    for dtype, pointer in POINTERS.items():
        for inplace in (False, True):
            for kind in ("zeroed", "scaled, values added"):
                is_zeroed = kind == "zeroed"
                yield Variant.of(
                    "mask_neurons_" if inplace else "mask_neurons",
                    f"{short_name(dtype)}, {kind}",
                    kernel,
                    {
                        **dict.fromkeys(("x", "y"), pointer),
                        "masks": "*i1",
                        "mask_ids": "*i64",
                        **({} if is_zeroed else {"values": pointer, "scale": "fp32"}),
                    },
                    constants={
                        **({"values": None, "scale": None} if is_zeroed else {}),
                        **dict.fromkeys(("x_column", "y_column", "mask_column", "mask_step"), 1),
                        "INPLACE": inplace,
                        **settings(dtype.itemsize),
                    },
                    divisible=("width", "x_row", "y_row", "mask_row"),
                    num_warps=THREADS // warp,
                    num_stages=1,
                )
