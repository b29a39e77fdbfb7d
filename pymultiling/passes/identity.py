"""Whether two models are the same, wherever and however they were loaded."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Where a configuration came from, what wrote it, and what changes no number; each weight's dtype is its own.
APART = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "use_cache")
BLOCK = 1 << 24  # weights at a time, as 64-bit integers


@torch.no_grad()
def model_hash(model: nn.Module) -> str:
    """A hash of a model's configuration and of every weight's name, shape, dtype and bits.

    Of the bits sums of rows and of columns as integers, weighted by their places and modulo 2^64: they are the same on any device,
    and others when neurons change places.
    """
    digest = hashlib.sha256(json.dumps(_kept(model.config.to_dict()), sort_keys=True, default=str).encode())
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, DTensor):  # of a model that is spread, this process's part
            value = value.to_local()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} {_sums(value)}\n".encode())
    return digest.hexdigest()[:32]


def _kept(config):
    if not isinstance(config, dict):
        return config
    return {str(name): _kept(value) for name, value in config.items() if name not in APART}


def _sums(value: Tensor) -> list[int]:
    if not value.numel():
        return []
    bits = value.contiguous().view(-1).view(INTEGERS[value.element_size()]).view(len(value) if value.ndim else 1, -1)
    rows, columns = [], 0
    for part in bits.split(max(1, BLOCK // bits.shape[1])):
        part = part.long()
        rows.append(part.sum(1))
        columns += part.sum(0)
    return [_weighted(torch.cat(rows)), _weighted(columns)]


def _weighted(sums: Tensor) -> int:
    return int((sums * torch.arange(1, 2 * len(sums), 2, device=sums.device)).sum())
