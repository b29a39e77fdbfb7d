"""Copies safetensors files tensor by tensor, with some tensors changed. One tensor at a time is in memory.

A file is the length of its header (8 bytes), the header (JSON: dtype, shape and place of each tensor), and the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, prod
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pymultiling.errors import CheckpointError

# {name in a file: dtype} of the tensors that can be changed and converted. All others are copied.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_METADATA = "__metadata__"
_BLOCK = 1 << 20  # bytes that are copied at a time


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file.

    Attributes:
        dtype: its dtype's name in the file, such as "BF16".
        shape: its shape.
        start: its first byte in the file.
        size: its number of bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Returns {name: tensor} in the order of the file, and the file's metadata.

    Raises:
        CheckpointError: the file is damaged, or is no safetensors file.
    """
    try:
        with safe_open(path, framework="pt"):  # checks the header, and that all tensors are in the file
            pass
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged, or no safetensors file ({error}): fetch it again") from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    metadata: dict[str, str] = header.pop(_METADATA, None) or {}
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        tensors[name] = StoredTensor(entry["dtype"], tuple(entry["shape"]), 8 + length + start, stop - start)
    return tensors, metadata


def read_tensor(path: Path, stored: StoredTensor) -> Tensor:
    """Returns a tensor of one of `DTYPES`, in memory of its own."""
    with path.open("rb") as file:
        return _read(file, stored)


def copy_tensors(
    source: Path, target: Path, changes: Mapping[str, Callable[[Tensor], None]], dtype: torch.dtype | None = None
) -> int:
    """Copies a file.

    Args:
        source: the file to copy.
        target: the new file.
        changes: {name: a function that changes the tensor in place}. These tensors are of one of `DTYPES`.
        dtype: the dtype of all tensors of one of `DTYPES` in the new file; None: each keeps its own. Tensors that are
            rounded by it are changed before that.

    Returns:
        How many bytes the tensors of the new file have.

    Raises:
        CheckpointError: the source is damaged.
        OSError: the new file cannot be written.
    """
    tensors, metadata = read_header(source)
    targets = {name: DTYPES[stored.dtype] if dtype is None else dtype
               for name, stored in tensors.items() if stored.dtype in DTYPES}  # fmt: skip
    sizes = {
        name: prod(stored.shape) * targets[name].itemsize if name in targets else stored.size
        for name, stored in tensors.items()
    }
    # As safetensors writes them: wide numbers first, so that each tensor is aligned. Empty tensors come before all.
    counts = {name: prod(stored.shape) for name, stored in tensors.items()}
    order = sorted(tensors, key=lambda name: -sizes[name] / counts[name] if counts[name] else -inf)
    with source.open("rb") as reader, target.open("wb") as writer:
        writer.write(_header(tensors, metadata, targets, sizes, order))
        for name in order:
            stored, change = tensors[name], changes.get(name)
            if change is None and (name not in targets or targets[name] == DTYPES[stored.dtype]):
                _copy_bytes(reader, writer, stored)
            else:
                _write(writer, _changed(_read(reader, stored), change, targets[name]))
    return sum(sizes.values())


def _header(
    tensors: Mapping[str, StoredTensor],
    metadata: Mapping[str, str],
    targets: Mapping[str, torch.dtype],
    sizes: Mapping[str, int],
    order: list[str],
) -> bytes:
    header: dict[str, object] = {_METADATA: metadata} if metadata else {}
    start = 0
    for name in order:
        dtype = _NAMES[targets[name]] if name in targets else tensors[name].dtype
        header[name] = {"dtype": dtype, "shape": tensors[name].shape, "data_offsets": (start, start + sizes[name])}
        start += sizes[name]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read(file: BinaryIO, stored: StoredTensor) -> Tensor:
    dtype = DTYPES[stored.dtype]
    if not stored.size:
        return torch.empty(stored.shape, dtype=dtype)
    buffer = bytearray(stored.size)
    file.seek(stored.start)
    file.readinto(buffer)  # type: ignore[attr-defined]
    return torch.frombuffer(buffer, dtype=dtype).view(stored.shape)


def _changed(tensor: Tensor, change: Callable[[Tensor], None] | None, dtype: torch.dtype) -> Tensor:
    """Returns a tensor that is changed, and then rounded to the dtype."""
    tensor = tensor.to(torch.promote_types(tensor.dtype, dtype))
    if change is not None:
        change(tensor)
    return tensor.to(dtype)


def _write(file: BinaryIO, tensor: Tensor) -> None:
    if tensor.numel():
        file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _copy_bytes(reader: BinaryIO, writer: BinaryIO, stored: StoredTensor) -> None:
    reader.seek(stored.start)
    left = stored.size
    while left:
        block = reader.read(min(left, _BLOCK))
        if not block:
            raise OSError(f"{reader.name} ended early: it changed while it was copied")
        writer.write(block)
        left -= len(block)
