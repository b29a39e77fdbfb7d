"""normed_energy: importance of the inputs of a linear map whose output passes an RMS norm, f = W x, y = g f / r.

    energy[c, k d + j] = sum_{t in c} e^2 |g f|^2 + 2 e (g^2 f).v / r' + |g v|^2 / r'^2,   v = sum_h x[t, n_h] W[:, n_h]
    r^2 = |f|^2 / D + eps,   r'^2 = r^2 + (|v|^2 - 2 f.v) / D,   e = 1/r - 1/r',   n_h = (kG + h) d + j,   h < G

The products of f and g^2 f with the columns of W are matrix products of PyTorch, at most PRODUCT_BYTES at a time. The
kernel reads them once:

x (tokens, K G d), products (PARTS tokens, K G d) float32, squares (2, tokens) float32, gram and scaled_gram (K, d, G,
G), offsets (count + 1,) and order (tokens,) int32 -> energy (count, K d), columns (count, K G d) float32. The first
rows of products are f W, and the sum of the others is (g^2 f) W (normed_factors.py, which also says what squares are).
A program computes BLOCK_J dimensions of a key head in one document, BLOCK_T tokens at a time. A sum over tokens has a
second number with what it lost to rounding (Kahan): `lost` has those of `columns`.

The kernel's arguments *_row and *_column are the strides of tensors.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from pymultiling.triton_kernels.documents import document_pointers, find_document, find_tokens, grouped
from pymultiling.triton_kernels.launching import ceil_div, launch_kernel
from pymultiling.triton_kernels.normed_factors import factors_and_squares, factors_variant, parts_of
from pymultiling.triton_kernels.variant import POINTERS, Variant, short_name, warp_size

BLOCK_T = 32  # tokens of a tile
THREADS = 128
PRODUCT_BYTES = 2**28  # of the products that are in memory at a time
# energy must not depend on whether columns are asked for. With fused products it would: then the compiler fuses other
# products with sums.
FP_FUSION = False


@triton.jit
def load_tile(x, t, column, cells, row_stride, column_stride):
    """Returns x[t, column] in float32, 0 where `cells` is False. t and column are int64."""
    tile = tl.load(x + t[:, None] * row_stride + column[None, :] * column_stride, mask=cells, other=0.0)
    return tile.to(tl.float32)


@triton.jit
def quadratic_forms(
    x, gram, scaled_gram, t, column_of_head, cells, in_size, size, x_row, x_column, GROUP: tl.constexpr
):
    """Returns |v|^2 and |g v|^2 of tokens t, (BLOCK_T, BLOCK_J) each."""
    v_v = tl.zeros(cells.shape, tl.float32)
    gv_gv = tl.zeros(cells.shape, tl.float32)
    for g in range(GROUP):
        factor = load_tile(x, t, column_of_head + g * size, cells, x_row, x_column)
        own = g * GROUP + g
        v_v += factor * factor * tl.load(gram + own, mask=in_size, other=0.0)[None, :]
        gv_gv += factor * factor * tl.load(scaled_gram + own, mask=in_size, other=0.0)[None, :]
        for h in range(g):  # a pair of different columns counts twice
            both = factor * load_tile(x, t, column_of_head + h * size, cells, x_row, x_column)
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
    products,
    squares,
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
    product_row,
    energy_row,
    column_row,
    GROUP: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_J: tl.constexpr,
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
        columns += document.to(tl.int64) * column_row + column_of_head
        lost += document.to(tl.int64) * column_row + column_of_head
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
        square = tl.load(squares + t, mask=in_document, other=1.0)[:, None]
        scaled_square = tl.load(squares + tokens + t, mask=in_document, other=0.0)[:, None]
        f_v = tl.zeros((BLOCK_T, BLOCK_J), tl.float32)
        ggf_v = tl.zeros((BLOCK_T, BLOCK_J), tl.float32)
        for g in range(GROUP):
            column = column_of_head + g * size
            f_w = load_tile(products, t, column, cells, product_row, 1)
            ggf_w = load_tile(products, t + tokens, column, cells, product_row, 1)
            if PARTS == 3:
                ggf_w += load_tile(products, t + 2 * tokens, column, cells, product_row, 1)
            factor = load_tile(x, t, column, cells, x_row, x_column)
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
    tl.store(energy + document.to(tl.int64) * energy_row + k.to(tl.int64) * size + j, total, mask=in_size)


def settings(group: int, parts: int) -> dict[str, object]:
    """Returns the kernel's constants. parts: as `parts_of` returns them."""
    # With more heads, fewer dimensions make as many programs.
    return {"GROUP": group, "PARTS": parts, "BLOCK_T": BLOCK_T, "BLOCK_J": 64 if group == 1 else 32}


def matrix_product(factors: Tensor, weight: Tensor) -> Tensor:
    """Returns factors W in float32."""
    if factors.dtype == torch.float32:
        return factors @ weight
    if factors.is_cuda and not torch.version.hip:
        return torch.mm(factors, weight, out_dtype=torch.float32)
    return factors.float() @ weight.float()


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
    """Launches the kernels. Arguments and results are those of `pymultiling.ops.reference.normed_energy`."""
    offsets, order = grouped(documents, count, offsets, order)
    tokens, inputs = x.shape
    heads, head_size, group, _ = gram.shape
    gram, scaled_gram = gram.contiguous(), scaled_gram.contiguous()
    is_narrow = output.dtype == weight.dtype == torch.bfloat16
    factors, squares = factors_and_squares(output, multiplier, eps, torch.bfloat16 if is_narrow else torch.float32)
    weight = weight if is_narrow else weight.float()
    energy = torch.empty(count, heads * head_size, dtype=torch.float32, device=x.device)
    column_energy, lost = (
        torch.empty(count if columns else 0, inputs, dtype=torch.float32, device=x.device) for _ in range(2)
    )
    separate = columns and group > 1
    constants = settings(group, parts_of(factors.dtype))
    head_inputs = group * head_size  # inputs of a key head
    at_once = max(1, PRODUCT_BYTES // (4 * max(1, len(factors)) * head_inputs))
    at_once = at_once // 64 * 64 or at_once  # addresses stay aligned where a head is one column
    for first in range(0, heads, at_once):
        some_heads = slice(first, min(first + at_once, heads))
        some_inputs = slice(first * head_inputs, some_heads.stop * head_inputs)
        products = matrix_product(factors, weight[:, some_inputs])
        # Neurons of one column are the dimensions of one long head.
        kv_heads, size = (1, products.shape[1]) if group == 1 else (some_heads.stop - first, head_size)
        arguments = (
            x[:, some_inputs], products, squares, gram[some_heads], scaled_gram[some_heads], offsets, order,
            energy[:, first * head_size : some_heads.stop * head_size],
            column_energy[:, some_inputs] if separate else None, lost[:, some_inputs] if separate else None,
            tokens, count, kv_heads, size, len(weight), eps,
            *x.stride(), products.stride(0), energy.stride(0), column_energy.stride(0),
        )  # fmt: skip
        launch_kernel(
            kernel,
            count * kv_heads * ceil_div(size, constants["BLOCK_J"]),
            arguments,
            constants,
            num_warps=THREADS // warp_size(x),
            num_stages=1,
            enable_fp_fusion=FP_FUSION,
        )
    if columns and group == 1:
        column_energy.copy_(energy)
    return energy, column_energy


def variants(warp: int = 32) -> Iterator[Variant]:
    """Yields the variants for each dtype: factors, a neuron of one column, and of four with and without single columns.

    For bfloat16 also tokens in the order of their documents. warp: threads of a warp.
    """
    for dtype in POINTERS:
        yield factors_variant(f"{short_name(dtype)}, factors", dtype, warp)
        parts = parts_of(torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
        for group, with_columns, in_order in ((1, False, False), (4, False, False), (4, True, False), (1, False, True)):
            if in_order and dtype != torch.bfloat16:
                continue
            pointers, absent = document_pointers(in_order)
            if not with_columns:
                absent = {**absent, "columns": None, "lost": None}
            numbers = ("products", "squares", "gram", "scaled_gram", "energy", "columns", "lost")
            tensors = {"x": POINTERS[dtype], **dict.fromkeys(numbers, "*fp32"), **pointers, "eps": "fp32"}
            name = [short_name(dtype), f"{group} columns a neuron" if group > 1 else "1 column a neuron"]
            yield Variant.of(
                "normed_energy",
                ", ".join([*name, *["single columns too"] * with_columns, *["in order"] * in_order]),
                kernel,
                {argument: pointer for argument, pointer in tensors.items() if argument not in absent},
                constants={**absent, "x_column": 1, **settings(group, parts)},
                divisible=("size", "outputs", "x_row", "product_row", "energy_row", "column_row"),
                num_warps=THREADS // warp,
                num_stages=1,
                fp_fusion=FP_FUSION,
            )
