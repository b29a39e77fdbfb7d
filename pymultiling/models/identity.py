"""Whether two models are the same, wherever and however they were loaded."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Where a configuration came from, and what wrote it.
APART = ("_name_or_path", "transformers_version", "architectures")


@torch.no_grad()
def model_hash(model: nn.Module) -> str:
    """A hash of a model's configuration and of every weight's name, shape, dtype and bits.

    Of the bits the sum as integers, modulo 2^64, which is the same on any device; one pass over the weights.
    """
    config = {name: value for name, value in model.config.to_dict().items() if name not in APART}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, value in sorted(model.state_dict().items()):
        value = (
            value.to_local() if isinstance(value, DTensor) else value
        )  # of a model that is spread, this process's part
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} {_sum(value)}\n".encode())
    return digest.hexdigest()[:32]


def _sum(value: Tensor) -> int:
    return int(value.contiguous().view(INTEGERS[value.element_size()]).sum(dtype=torch.int64)) if value.numel() else 0
