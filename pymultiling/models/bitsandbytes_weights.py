"""Linear modules of bitsandbytes: the weight that their bits stand for, and how they round what they get.

    4 bits:  W[n, i] = levels[c[n, i]] s[b]          8 bits:  W[n, i] = c[n, i] s[n] / 127

c are the stored numbers, levels the 16 values of NF4 or FP4, s the largest magnitude of a block of entries or of a row.
Sources: arXiv 2305.14314, 2208.07339.

On a CPU with products of bfloat16, modules in 4 bits round levels, s, inputs and outputs to bfloat16 in evaluation
mode. Their first forward rearranges c and s for this. Modules in 8 bits round inputs, too: to 8 bits by the largest one
of a token, except dimensions that reach the threshold in any token.

bitsandbytes need not be installed: its classes are known by their names. Its `dequantize_4bit`, and its `state_dict`,
are not used, because in version 0.50.2 both give other weights once c and s are rearranged, the latter for good.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

Kind: TypeAlias = Literal["Linear4bit", "Linear8bitLt"]

REARRANGED_ROWS, REARRANGED_PAIRS = 32, 32  # rows of a block, and of pairs of their numbers that share bytes
DEVIATIONS = 6  # how many standard deviations an output may be off by the rounding of inputs to 8 bits


def bitsandbytes_kind(module: nn.Module) -> Kind | None:
    """Returns the class of a module with quantised weights; None for any other module."""
    for base in type(module).__mro__:
        if base.__module__.partition(".")[0] != "bitsandbytes":
            continue
        state: Any = module
        if base.__name__ == "Linear4bit" and getattr(state.weight, "quant_state", None) is not None:
            return "Linear4bit"
        if base.__name__ == "Linear8bitLt" and state.weight.dtype == torch.int8:
            return "Linear8bitLt"
    return None


class StoredNumbers(NamedTuple):
    """What a module stores of its weight.

    Attributes:
        numbers: (outputs, inputs) uint8 or int8, c.
        scales: s in float32: (outputs,) in 8 bits; in 4 bits one for each block of entries, which follow row by row.
    """

    numbers: Tensor
    scales: Tensor


@torch.no_grad()
def stored_numbers(module: nn.Module) -> StoredNumbers:
    """Returns what a module of bitsandbytes stores, in the same order before and after its first forward."""
    state: Any = module
    if bitsandbytes_kind(module) == "Linear8bitLt":
        scales = state.weight.SCB if state.state.SCB is None else state.state.SCB
        return StoredNumbers(_plain(state.weight), scales.float())
    quant = state.weight.quant_state
    rows, columns = quant.shape
    stored = _plain(state.weight).view(torch.uint8)
    if _is_rearranged(quant):
        pairs = stored.reshape(-1, REARRANGED_PAIRS)
        numbers = torch.cat([pairs & 15, pairs >> 4], -1)
        numbers = numbers.view(rows // REARRANGED_ROWS, columns // 2, REARRANGED_ROWS, 2).transpose(1, 2)
        return StoredNumbers(numbers.reshape(rows, columns), quant.absmax.T.flatten().float())
    pairs = stored.flatten()
    numbers = torch.stack([pairs >> 4, pairs & 15], -1).flatten()[: rows * columns].view(rows, columns)
    scales = quant.absmax
    if quant.nested:  # the scales are in 8 bits themselves, minus their mean
        inner = quant.state2
        scales = inner.code[scales.int()] * inner.absmax.repeat_interleave(inner.blocksize)[: len(scales)]
        scales = scales + quant.offset
    return StoredNumbers(numbers, scales.float())


@torch.no_grad()
def bitsandbytes_weight(module: nn.Module) -> Tensor:
    """Returns the weight, (outputs, inputs), with which the module computes in evaluation mode, in `module_dtype`."""
    numbers, scales = stored_numbers(module)
    state: Any = module
    if bitsandbytes_kind(module) == "Linear8bitLt":
        return numbers.float() * (scales[:, None] / 127)
    quant = state.weight.quant_state
    levels = quant.code.float()
    if computes_in_bfloat16(module):
        levels, scales = (values.bfloat16().float() for values in (levels, scales))
    entries: Tensor = levels[numbers.flatten().int()]
    entries *= scales.repeat_interleave(quant.blocksize)[: len(entries)]
    return entries.view(numbers.shape).to(module_dtype(module))


def module_dtype(module: nn.Module) -> torch.dtype:
    """Returns the dtype that the weight had; float32 in 8 bits, where it is not known."""
    if bitsandbytes_kind(module) == "Linear8bitLt":
        return torch.float32
    state: Any = module
    quant = state.weight.quant_state
    dtype: torch.dtype = quant.original_dtype if _is_rearranged(quant) else quant.dtype
    return dtype


def rounding_dtype(module: nn.Module) -> torch.dtype:
    """Returns the dtype with the fewest digits to which inputs, weights and outputs are rounded, but for 8 bits.

    A module in 8 bits rounds to float16 and to the dtype of what it gets, which may be bfloat16.
    """
    if bitsandbytes_kind(module) == "Linear8bitLt":
        return torch.bfloat16
    state: Any = module
    dtypes = [module_dtype(module), torch.bfloat16 if computes_in_bfloat16(module) else state.compute_dtype]
    return max((dtype for dtype in dtypes if dtype is not None), key=lambda dtype: torch.finfo(dtype).eps)


def computes_in_bfloat16(module: nn.Module) -> bool:
    """Whether a module in 4 bits computes in bfloat16 whatever it gets, as on some CPUs in evaluation mode."""
    state: Any = module
    if _is_rearranged(state.weight.quant_state):
        return True
    return state.weight.device.type == "cpu" and bool(getattr(state, "support_avx512bf16_for_cpu", False))


def input_rounding(module: nn.Module, x: Tensor) -> Tensor | None:
    r"""Returns how far rounding inputs to 8 bits may take the outputs, relative to the norms of the weight's rows.

    An input is off by at most half a step m / 127, m the largest magnitude in its token, evenly: a standard deviation
    of m / (254 sqrt(3)). In an output these errors add up to that times the norm of its row of W. Over all tokens

        DEVIATIONS / (254 sqrt(3)) sqrt(sum over t of m[t]^2)

    Args:
        module: a module of bitsandbytes.
        x: (..., inputs), what it gets.

    Returns:
        A number in a tensor; None where inputs are not rounded to 8 bits.
    """
    if bitsandbytes_kind(module) != "Linear8bitLt":
        return None
    state: Any = module
    threshold: float = state.state.threshold
    sizes = x.float().flatten(0, -2).abs()
    if threshold > 0:  # what reaches the threshold is not rounded
        sizes = sizes.masked_fill(sizes >= threshold, 0)
    return sizes.amax(-1).square().sum().sqrt() * (DEVIATIONS / (254 * math.sqrt(3)))


def _is_rearranged(quant: Any) -> bool:
    return bool(getattr(quant, "packing_format_for_cpu", False))


def _plain(weight: Tensor) -> Tensor:
    return weight.detach().as_subclass(Tensor)
