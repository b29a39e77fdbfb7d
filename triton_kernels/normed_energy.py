"""normed_energy: importance of the inputs of a linear map whose output passes an RMS norm, f = W x, y = g f / r.

    energy[c, k d + j] = sum_{t in c} e^2 |g f|^2 + 2 e (g^2 f).v / r' + |g v|^2 / r'^2,   v = sum_h x[t, n_h] W[:, n_h]
    r^2 = |f|^2 / D + eps,   r'^2 = r^2 + (|v|^2 - 2 f.v) / D,   e = 1/r - 1/r',   n_h = (kG + h) d + j,   h < G

x (tokens, K G d), output (tokens, D), weight (D, K G d), multiplier (D,), gram and scaled_gram (K, d, G, G), offsets
(count + 1,) and order (tokens,) int32 -> energy (count, K d), columns (count, K G d) float32. A program computes
BLOCK_J dimensions of a key head in one document, BLOCK_T tokens at a time. It multiplies their f and g^2 f with the
columns of W of one query head after the other, and adds x times these products. Nothing of size tokens x neurons is
written. A sum over tokens has a second number with what it lost to rounding (Kahan): `lost` has those of `columns`.

The kernel's arguments *_row, *_column and multiplier_step are the strides of tensors.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from pymultiling.triton_kernels import interpreted
from pymultiling.triton_kernels.documents import document_pointers, find_document, find_tokens, grouped
from pymultiling.triton_kernels.launching import ceil_div, launch_kernel
from pymultiling.triton_kernels.qk_sweep import product
from pymultiling.triton_kernels.variant import POINTERS, Variant, short_name, warp_size

BLOCK_T = 64  # tokens of a tile
THREADS = 128
STAGES = 3
# energy must not depend on whether columns are asked for. With fused products it would: then the compiler fuses other
# products with sums.
FP_FUSION = False


@triton.jit
def load_tile(x, t, column, cells, row_stride, column_stride):
    """Returns x[t, column] in x's dtype, 0 where `cells` is False. t and column are int64."""
    return tl.load(x + t[:, None] * row_stride + column[None, :] * column_stride, mask=cells, other=0.0)


@triton.jit
def row_squares(
    output, multiplier, t, in_document, outputs, output_row, output_column, multiplier_step, BLOCK_D: tl.constexpr
):
    """Returns |f|^2 and |g f|^2 of tokens t, (BLOCK_T,) each."""
    square = tl.zeros_like(t).to(tl.float32)
    scaled_square = tl.zeros_like(t).to(tl.float32)
    for start in range(0, outputs, BLOCK_D):
        d = (start + tl.arange(0, BLOCK_D)).to(tl.int64)
        in_outputs = d < outputs
        cells = in_document[:, None] & in_outputs[None, :]
        f = load_tile(output, t, d, cells, output_row, output_column).to(tl.float32)
        g = tl.load(multiplier + d * multiplier_step, mask=in_outputs, other=0.0).to(tl.float32)
        scaled = f * g[None, :]
        square += tl.sum(f * f, 1)
        scaled_square += tl.sum(scaled * scaled, 1)
    return square, scaled_square


@triton.jit
def weight_products(
    output,
    weight,
    multiplier,
    t,
    column,
    in_document,
    in_size,
    outputs,
    output_row,
    output_column,
    weight_row,
    weight_column,
    multiplier_step,
    PRECISION: tl.constexpr,
    IN_PARTS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Returns f W[:, column] and (g^2 f) W[:, column] of tokens t, (BLOCK_T, BLOCK_J) each.

    IN_PARTS: f and W are bfloat16. Their products are exact; g^2 f becomes the sum of three bfloat16 numbers.
    """
    f_w = tl.zeros((t.shape[0], column.shape[0]), tl.float32)
    ggf_w = tl.zeros((t.shape[0], column.shape[0]), tl.float32)
    for start in tl.range(0, outputs, BLOCK_D, num_stages=STAGES):
        d = (start + tl.arange(0, BLOCK_D)).to(tl.int64)
        in_outputs = d < outputs
        f = load_tile(output, t, d, in_document[:, None] & in_outputs[None, :], output_row, output_column)
        w = load_tile(weight, d, column, in_outputs[:, None] & in_size[None, :], weight_row, weight_column)
        g = tl.load(multiplier + d * multiplier_step, mask=in_outputs, other=0.0).to(tl.float32)[None, :]
        ggf = f.to(tl.float32) * g * g
        if IN_PARTS:
            f_w += product(f, w, PRECISION)
            for _ in tl.static_range(3):
                part = ggf.to(tl.bfloat16)
                ggf_w += product(part, w, PRECISION)
                ggf -= part.to(tl.float32)
        else:
            f_w += product(f.to(tl.float32), w.to(tl.float32), PRECISION)
            ggf_w += product(ggf, w.to(tl.float32), PRECISION)
    return f_w, ggf_w


@triton.jit
def quadratic_forms(
    x, gram, scaled_gram, t, column_of_head, cells, in_size, size, x_row, x_column, GROUP: tl.constexpr
):
    """Returns |v|^2 and |g v|^2 of tokens t, (BLOCK_T, BLOCK_J) each."""
    v_v = tl.zeros(cells.shape, tl.float32)
    gv_gv = tl.zeros(cells.shape, tl.float32)
    for g in range(GROUP):
        factor = load_tile(x, t, column_of_head + g * size, cells, x_row, x_column).to(tl.float32)
        own = g * GROUP + g
        v_v += factor * factor * tl.load(gram + own, mask=in_size, other=0.0)[None, :]
        gv_gv += factor * factor * tl.load(scaled_gram + own, mask=in_size, other=0.0)[None, :]
        for h in range(g):  # a pair of different columns counts twice
            both = factor * load_tile(x, t, column_of_head + h * size, cells, x_row, x_column).to(tl.float32)
            upper, lower = g * GROUP + h, h * GROUP + g
            pair = tl.load(gram + upper, mask=in_size, other=0.0) + tl.load(gram + lower, mask=in_size, other=0.0)
            v_v += both * pair[None, :]
            pair = tl.load(scaled_gram + upper, mask=in_size, other=0.0)
            pair += tl.load(scaled_gram + lower, mask=in_size, other=0.0)
            gv_gv += both * pair[None, :]
    return v_v, gv_gv


@triton.jit
def sum_changes(f_v, ggf_v, v_v, gv_gv, square, scaled_square, in_document, outputs, eps):
    """Returns |y - y'|^2 summed over the tokens of a tile, (BLOCK_J,).

    Args:
        f_v: f.v, (BLOCK_T, BLOCK_J).
        ggf_v: (g^2 f).v.
        v_v: |v|^2.
        gv_gv: |g v|^2.
        square: r^2, (BLOCK_T, 1).
        scaled_square: |g f|^2, (BLOCK_T, 1).
        in_document: (BLOCK_T,), False for rows of the tile that are no tokens of the document.
        outputs: D.
        eps: of the norm.
    """
    change = (v_v - 2.0 * f_v) / outputs
    new_square = square + change
    new_square = tl.where(new_square < eps, eps, new_square)
    length, new_length = tl.sqrt(square), tl.sqrt(new_square)
    e = change / (length * new_length * (length + new_length))  # 1/r - 1/r' would lose its digits
    energy = e * e * scaled_square + 2.0 * e * ggf_v / new_length + gv_gv / new_square
    energy = tl.where((energy < 0) | ~in_document[:, None], 0.0, energy)
    return tl.sum(energy, 0)


@triton.jit
def add_exactly(total, lost, x):
    """Returns total + x, and what the sum has lost to rounding with it (Kahan); 0 where the sum is infinite."""
    x -= lost
    new_total = total + x
    return new_total, tl.where(tl.abs(new_total) < float("inf"), (new_total - total) - x, 0.0)


@triton.jit(do_not_specialize=["tokens", "count"])
def kernel(
    x,
    output,
    weight,
    multiplier,
    gram,
    scaled_gram,
    offsets,
    order,
    energy,
    columns,
    lost,
    tokens,
    count,
    kv_heads,
    size,
    outputs,
    eps,
    x_row,
    x_column,
    output_row,
    output_column,
    weight_row,
    weight_column,
    multiplier_step,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    IN_PARTS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STAGES: tl.constexpr,
):
    blocks = tl.cdiv(size, BLOCK_J)
    document = tl.program_id(0) // (kv_heads * blocks)
    k = tl.program_id(0) // blocks % kv_heads
    j = (tl.program_id(0) % blocks * BLOCK_J + tl.arange(0, BLOCK_J)).to(tl.int64)
    in_size = j < size
    begin, length, first, scattered = find_document(offsets, order, tokens, count, document)
    column_of_head = k.to(tl.int64) * GROUP * size + j
    gram += (k.to(tl.int64) * size + j) * GROUP * GROUP
    scaled_gram += (k.to(tl.int64) * size + j) * GROUP * GROUP
    if columns is not None:
        columns += document.to(tl.int64) * kv_heads * GROUP * size + column_of_head
        lost += document.to(tl.int64) * kv_heads * GROUP * size + column_of_head
        for g in range(GROUP):
            tl.store(columns + g * size, tl.zeros((BLOCK_J,), tl.float32), mask=in_size)
            tl.store(lost + g * size, tl.zeros((BLOCK_J,), tl.float32), mask=in_size)
        tl.debug_barrier()  # the threads that read these numbers may be others

    total = tl.zeros((BLOCK_J,), tl.float32)
    total_lost = tl.zeros((BLOCK_J,), tl.float32)
    for start in range(0, length, BLOCK_T):
        i = start + tl.arange(0, BLOCK_T)
        in_document = i < length
        t = find_tokens(order, begin, first, scattered, i, in_document).to(tl.int64)
        cells = in_document[:, None] & in_size[None, :]
        square, scaled_square = row_squares(
            output, multiplier, t, in_document, outputs, output_row, output_column, multiplier_step, BLOCK_D
        )
        square = (square / outputs + eps)[:, None]
        scaled_square = scaled_square[:, None]
        f_v = tl.zeros((BLOCK_T, BLOCK_J), tl.float32)
        ggf_v = tl.zeros((BLOCK_T, BLOCK_J), tl.float32)
        for g in range(GROUP):
            column = column_of_head + g * size
            f_w, ggf_w = weight_products(
                output, weight, multiplier, t, column, in_document, in_size, outputs, output_row, output_column,
                weight_row, weight_column, multiplier_step, PRECISION, IN_PARTS, BLOCK_D, STAGES,
            )  # fmt: skip
            factor = load_tile(x, t, column, cells, x_row, x_column).to(tl.float32)
            f_v += factor * f_w
            ggf_v += factor * ggf_w
            if columns is not None:
                own = g * GROUP + g
                v_v = factor * factor * tl.load(gram + own, mask=in_size, other=0.0)[None, :]
                gv_gv = factor * factor * tl.load(scaled_gram + own, mask=in_size, other=0.0)[None, :]
                changes = sum_changes(
                    factor * f_w, factor * ggf_w, v_v, gv_gv, square, scaled_square, in_document, outputs, eps
                )
                column_total = tl.load(columns + g * size, mask=in_size, other=0.0)
                column_lost = tl.load(lost + g * size, mask=in_size, other=0.0)
                column_total, column_lost = add_exactly(column_total, column_lost, changes)
                tl.debug_barrier()  # all threads have read
                tl.store(columns + g * size, column_total, mask=in_size)
                tl.store(lost + g * size, column_lost, mask=in_size)
                tl.debug_barrier()
        v_v, gv_gv = quadratic_forms(
            x, gram, scaled_gram, t, column_of_head, cells, in_size, size, x_row, x_column, GROUP
        )
        changes = sum_changes(f_v, ggf_v, v_v, gv_gv, square, scaled_square, in_document, outputs, eps)
        total, total_lost = add_exactly(total, total_lost, changes)
    tl.store(energy + (document.to(tl.int64) * kv_heads + k) * size + j, total, mask=in_size)


def settings(group: int, weight_dtype: torch.dtype, output_dtype: torch.dtype, warp: int) -> dict[str, object]:
    """Returns the kernel's constants. warp: threads of a warp."""
    in_parts = weight_dtype == output_dtype == torch.bfloat16
    return {
        "GROUP": group,
        "PRECISION": "tf32x3" if not in_parts and warp == 32 else "ieee",
        "IN_PARTS": in_parts,
        "BLOCK_T": BLOCK_T,
        "BLOCK_J": 64 if group == 1 else 32,  # with more heads, fewer dimensions make as many programs
        "BLOCK_D": 32 if in_parts else 16,  # wider tiles spill registers
        "STAGES": STAGES,
    }


def normed_energy(
    x: Tensor,
    output: Tensor,
    weight: Tensor,
    multiplier: Tensor,
    gram: Tensor,
    scaled_gram: Tensor,
    eps: float,
    documents: Tensor,
    count: int,
    columns: bool = False,
    offsets: Tensor | None = None,
    order: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Launches the kernel. Arguments and results are those of `pymultiling.ops.reference.normed_energy`."""
    offsets, order = grouped(documents, count, offsets, order)
    group, inputs, warp = gram.shape[2], x.shape[1], warp_size(x)
    # Neurons of one column are the dimensions of one long head.
    kv_heads, size = (1, inputs) if group == 1 else gram.shape[:2]
    energy = torch.empty(count, kv_heads * size, dtype=torch.float32, device=x.device)
    column_energy, lost = (
        torch.empty(count if columns else 0, inputs, dtype=torch.float32, device=x.device) for _ in range(2)
    )
    separate = columns and group > 1
    constants = settings(group, weight.dtype, output.dtype, warp)
    if interpreted():
        constants["PRECISION"] = "widened"  # see qk_sweep.product
    arguments = (
        x, output, weight, multiplier, gram.contiguous(), scaled_gram.contiguous(), offsets, order, energy,
        column_energy if separate else None, lost if separate else None,
        len(x), count, kv_heads, size, len(weight), eps,
        *x.stride(), *output.stride(), *weight.stride(), *multiplier.stride(),
    )  # fmt: skip
    launch_kernel(
        kernel,
        count * kv_heads * ceil_div(size, constants["BLOCK_J"]),
        arguments,
        constants,
        num_warps=THREADS // warp,
        num_stages=STAGES,
        enable_fp_fusion=FP_FUSION,
    )
    if columns and group == 1:
        column_energy.copy_(energy)
    return energy, column_energy


def variants(warp: int = 32) -> Iterator[Variant]:
    """Yields the variants for each dtype: a neuron of one column, and of four with and without single columns.

    For bfloat16 also tokens in the order of their documents. warp: threads of a warp.
    """
    for dtype in POINTERS:
        for group, with_columns, in_order in ((1, False, False), (4, False, False), (4, True, False), (1, False, True)):
            if in_order and dtype != torch.bfloat16:
                continue
            pointers, absent = document_pointers(in_order)
            if not with_columns:
                absent = {**absent, "columns": None, "lost": None}
            tensors = {
                **dict.fromkeys(("x", "output", "weight", "multiplier"), POINTERS[dtype]),
                **dict.fromkeys(("gram", "scaled_gram", "energy", "columns", "lost"), "*fp32"),
                **pointers,
                "eps": "fp32",
            }
            name = [short_name(dtype), f"{group} columns a neuron" if group > 1 else "1 column a neuron"]
            yield Variant.of(
                "normed_energy",
                ", ".join([*name, *["single columns too"] * with_columns, *["in order"] * in_order]),
                kernel,
                {argument: pointer for argument, pointer in tensors.items() if argument not in absent},
                constants={
                    **absent,
                    **dict.fromkeys(("x_column", "output_column", "weight_column", "multiplier_step"), 1),
                    **settings(group, dtype, dtype, warp),
                },
                divisible=("size", "outputs", "x_row", "output_row", "weight_row"),
                num_warps=THREADS // warp,
                num_stages=STAGES,
                fp_fusion=FP_FUSION,
            )
