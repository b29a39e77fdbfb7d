"""A hash of a model that is the same wherever and however the model was loaded."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# {size of a weight in bytes: the integer type as which its bits are read}
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Parts of a configuration that tell where it came from or what wrote it, or that change no result. Each weight has a
# dtype of its own.
IGNORED = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache")
BLOCK = 1 << 24  # how many weights are converted to 64-bit integers at a time


@torch.no_grad()
def model_hash(model: nn.Module) -> str:
    """Returns a hash of a model's configuration and of every weight's name, shape, dtype and bits.

    The bits enter as sums over rows and over columns, as integers, weighted by their positions and modulo 2^64. These
    sums are the same on all devices, and differ if neurons change places.
    """
    config = cast("PretrainedConfig", model.config)
    settings = json.dumps(_remove_ignored(config.to_dict()), sort_keys=True, default=str)
    digest = hashlib.sha256(settings.encode())
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, DTensor):  # of a model that is spread over processes: this process's part
            value = value.to_local()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} {_sums(value)}\n".encode())
    return digest.hexdigest()[:32]


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
