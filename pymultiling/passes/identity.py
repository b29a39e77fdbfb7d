"""A hash of a model that is the same wherever and however the model was loaded, if each process has the whole model."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pymultiling.models.adapters import adapter_state
from pymultiling.models.bitsandbytes_weights import bitsandbytes_kind, stored_numbers
from pymultiling.models.quantised import dequantised, is_of_torchao

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# {size of a weight in bytes: the integer type as which its bits are read}
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Parts of a configuration that tell where it came from or what wrote it, or that change no result. The dtype is
# left out because the hash has the dtype of every weight.
IGNORED = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache")
BLOCK = 1 << 24  # how many weights are converted to 64-bit integers at a time


@torch.no_grad()
def model_hash(model: nn.Module) -> str:
    """Returns a hash, 32 hexadecimal digits, of a model's configuration and every weight's name, shape, dtype and bits.

    The configuration is hashed without IGNORED. The bits of each weight are read as integers, which are summed over
    each row and over each column. The rows' sums are weighted by their positions and added up modulo 2^64, and so are
    the columns' sums. The two results are the same on all devices, and differ if neurons change places. Of adapters of
    PEFT it is also hashed which are active, and their scales.

    Of a model that is split over processes each process hashes its own part. The hash then differs between the
    processes and depends on how the model is split.
    """
    config = cast("PretrainedConfig", model.config)
    settings = json.dumps(_remove_ignored(config.to_dict()), sort_keys=True, default=str)
    digest = hashlib.sha256(settings.encode())
    for name, value in sorted(_tensors(model).items()):
        if isinstance(value, DTensor):  # a weight that is split over processes
            value = value.to_local()
        elif is_of_torchao(value):
            value = dequantised(value)
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} {_sums(value)}\n".encode())
    for name, module in model.named_modules():
        if state := adapter_state(module):
            digest.update(f"{name} {state}\n".encode())
    return digest.hexdigest()[:32]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns what `state_dict` does, but of modules of bitsandbytes what `stored_numbers` returns.

    Their `state_dict` may change the weight. Scales and biases are rounded to bfloat16, because the first forward may
    do so.
    """
    if not any(bitsandbytes_kind(module) for module in model.modules()):
        return model.state_dict()
    tensors: dict[str, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        held: dict[str, Tensor | None] = {**module._parameters, **module._buffers}
        if bitsandbytes_kind(module):
            numbers, scales = stored_numbers(module)
            bias = held["bias"]
            held = {"weight": numbers, "scales": scales.bfloat16(), "bias": None if bias is None else bias.bfloat16()}
        for name, value in held.items():
            if value is not None and name not in module._non_persistent_buffers_set:
                tensors[f"{path}.{name}"] = value.detach()
    return tensors


def _remove_ignored(settings: object) -> object:
    """Returns a configuration without its ignored parts, at all levels."""
    if not isinstance(settings, dict):
        return settings
    return {str(name): _remove_ignored(value) for name, value in settings.items() if name not in IGNORED}


def _sums(value: Tensor) -> list[int]:
    """Returns the weighted sum of the rows' sums of bits, and that of the columns' sums, or [] for an empty tensor."""
    if not value.numel():
        return []
    bits = value.contiguous().view(-1).view(INTEGERS[value.element_size()]).view(len(value) if value.ndim else 1, -1)
    rows: list[Tensor] = []
    columns = torch.zeros(bits.shape[1], dtype=torch.int64, device=bits.device)
    for part in torch.split(bits, max(1, BLOCK // bits.shape[1])):
        part = part.long()
        rows.append(part.sum(1))
        columns += part.sum(0)
    return [_weighted_sum(torch.cat(rows)), _weighted_sum(columns)]


def _weighted_sum(sums: Tensor) -> int:
    """Returns sum_i (2 i + 1) sums[i] modulo 2^64."""
    # Odd weights are invertible modulo 2^64, so that a change of a single sum always changes the result.
    return int((sums * torch.arange(1, 2 * len(sums), 2, device=sums.device)).sum())
