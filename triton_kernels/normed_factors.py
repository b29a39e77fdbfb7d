"""The factors whose products with W normed_energy needs: f, and g^2 f of the same tokens.

output (tokens, D), multiplier (D,) -> factors (PARTS tokens, D), squares (2, tokens) float32. The first rows of factors
are f, and the sum of the others is g^2 f: one block of rows in float32, two in bfloat16, whose sum has 16 binary
digits. squares has r^2 = |f|^2 / D + eps and |g f|^2. A program computes a token. The kernel's arguments *_row,
*_column and multiplier_step are the strides of tensors.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pymultiling.triton_kernels.launching import launch_kernel
from pymultiling.triton_kernels.variant import POINTERS, Variant, warp_size

THREADS = 128
BLOCK_D = 1024
# Otherwise the remainder of g^2 f could be of another product than the one that is rounded.
FP_FUSION = False


@triton.jit(do_not_specialize=["tokens"])
def kernel(
    output,
    multiplier,
    factors,
    squares,
    tokens,
    outputs,
    eps,
    output_row,
    output_column,
    multiplier_step,
    PARTS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    t = tl.program_id(0).to(tl.int64)
    square = tl.zeros((BLOCK_D,), tl.float32)
    scaled_square = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, outputs, BLOCK_D):
        d = (start + tl.arange(0, BLOCK_D)).to(tl.int64)
        in_outputs = d < outputs
        f = tl.load(output + t * output_row + d * output_column, mask=in_outputs, other=0.0).to(tl.float32)
        g = tl.load(multiplier + d * multiplier_step, mask=in_outputs, other=0.0).to(tl.float32)
        scaled = f * g
        square += f * f
        scaled_square += scaled * scaled
        tl.store(factors + t * outputs + d, f.to(factors.dtype.element_ty), mask=in_outputs)
        rest = scaled * g
        for part in tl.static_range(1, PARTS):
            rounded = rest.to(factors.dtype.element_ty)
            tl.store(factors + (part * tokens.to(tl.int64) + t) * outputs + d, rounded, mask=in_outputs)
            rest -= rounded.to(tl.float32)
    tl.store(squares + t, tl.sum(square, 0) / outputs + eps)
    tl.store(squares + tokens + t, tl.sum(scaled_square, 0))


def parts_of(dtype: torch.dtype) -> int:
    """Returns how many blocks of rows the factors have in a dtype."""
    return 3 if dtype == torch.bfloat16 else 2


def factors_and_squares(output: Tensor, multiplier: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Launches the kernel. dtype: of the factors, bfloat16 (for output in bfloat16) or float32."""
    tokens, outputs = output.shape
    factors = torch.empty(parts_of(dtype) * tokens, outputs, dtype=dtype, device=output.device)
    squares = torch.empty(2, tokens, dtype=torch.float32, device=output.device)
    if tokens:
        launch_kernel(
            kernel,
            tokens,
            (output, multiplier, factors, squares, tokens, outputs, eps, *output.stride(), *multiplier.stride()),
            {"PARTS": parts_of(dtype), "BLOCK_D": BLOCK_D},
            num_warps=THREADS // warp_size(output),
            num_stages=1,
            enable_fp_fusion=FP_FUSION,
        )
    return factors, squares


def factors_variant(name: str, dtype: torch.dtype, warp: int) -> Variant:
    """Returns the variant for a model in a dtype. warp: threads of a warp."""
    narrow = dtype == torch.bfloat16
    return Variant.of(
        "normed_energy",
        name,
        kernel,
        {
            **dict.fromkeys(("output", "multiplier"), POINTERS[dtype]),
            "factors": "*bf16" if narrow else "*fp32",
            "squares": "*fp32",
            "eps": "fp32",
        },
        constants={
            **dict.fromkeys(("output_column", "multiplier_step"), 1),
            "PARTS": parts_of(torch.bfloat16 if narrow else torch.float32),
            "BLOCK_D": BLOCK_D,
        },
        divisible=("outputs", "output_row"),
        num_warps=THREADS // warp,
        num_stages=1,
        fp_fusion=FP_FUSION,
    )
