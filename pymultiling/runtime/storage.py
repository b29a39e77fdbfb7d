"""Files that are written completely or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

METADATA = "pymultiling"  # the only metadata entry of a file, since safetensors writes several in random order
TENSOR_COUNT = "tensor_count"  # in the metadata, so that a file from which a tensor is missing is refused


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path to write to, in the folder of `path`. The path is different in every process.

    The temporary file replaces `path` at the end of the block, and is removed after an exception.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def save_tensors(path: str | Path, tensors: dict[str, Tensor], form: str, metadata: dict[str, str]) -> None:
    """Writes a safetensors file with the format `form` and the number of its tensors in its metadata.

    The same tensors and metadata give the same bytes.

    Raises:
        OSError: the file cannot be written.
    """
    fields = {"format": form, **metadata, TENSOR_COUNT: str(len(tensors))}
    entry = json.dumps(fields, sort_keys=True, ensure_ascii=False)
    with write_atomically(path) as partial:
        try:
            save_file(tensors, partial, metadata={METADATA: entry})
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error), str(path)) from None
        partial.chmod(0o644)  # safetensors makes it readable for its owner only


def read_metadata(path: str | Path) -> dict[str, str]:
    """Reads the metadata that `save_tensors` wrote, with the format. It is empty for files of other programs.

    Raises:
        SafetensorError: the file is damaged or is not a safetensors file.
    """
    with safe_open(path, framework="pt") as file:
        return parse_metadata(file.metadata() or {})


def parse_metadata(entries: Mapping[str, str]) -> dict[str, str]:
    """Returns the metadata that `save_tensors` wrote, from those of safetensors. It is empty if they are others."""
    try:
        metadata = json.loads(entries.get(METADATA, "{}"))
    except (ValueError, RecursionError):
        return {}
    is_ours = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    return metadata if is_ours else {}
