"""The dtype that stored weights are best computed in."""

from __future__ import annotations

import logging
import platform

import torch

from pymultiling.models.pretrained import pretrained
from pymultiling.runtime.free_memory import free_memory

_logger = logging.getLogger(__name__)


def widen_where_better(model: torch.nn.Module, device: torch.device) -> None:
    """Makes the weights of a loaded model float32 where their own 16 bits overflow early, or are slower.

    float16 overflows early. bfloat16 is slower on a CPU without instructions for it (5 times, measured with
    SmolLM2-135M and AVX2). It stays where float32 does not fit in the free memory.

    Args:
        model: the model, on the CPU.
        device: where it will run.
    """
    dtype: torch.dtype = pretrained(model).dtype
    if dtype == torch.float16:
        model.float()
    if dtype != torch.bfloat16 or device.type != "cpu" or has_bfloat16_products():
        return
    more_bytes = sum(parameter.numel() for parameter in model.parameters()) * 2
    free = free_memory(device)
    if free is not None and free < 2 * more_bytes:  # as much again is left for the forward
        _logger.warning(
            "the weights stay in bfloat16, which this CPU computes slowly: %.1f GB more memory would be needed for "
            "float32, and %.1f GB are free",
            more_bytes / 1e9,
            free / 1e9,
        )
        return
    _logger.info(
        "the weights are stored in bfloat16, and loaded in float32, which is faster on this CPU (--dtype bfloat16 "
        "keeps bfloat16)"
    )
    model.float()


def has_bfloat16_products() -> bool:
    """Whether the CPU has instructions for products of bfloat16 matrices."""
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
