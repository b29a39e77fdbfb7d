"""Files that are written completely or not at all, and readable errors for files of another format."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pymultiling.errors import CheckpointError

METADATA = "pymultiling"  # the only metadata entry of a file, since safetensors writes several in random order


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
    """Writes a safetensors file with the format `form` in its metadata.

    The same tensors and metadata give the same bytes.

    Raises:
        OSError: the file cannot be written.
    """
    entry = json.dumps({"format": form, **metadata}, sort_keys=True, ensure_ascii=False)
    with write_atomically(path) as partial:
        try:
            save_file(tensors, partial, metadata={METADATA: entry})
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error), str(path)) from None
        partial.chmod(0o644)  # safetensors makes it readable for its owner only


def load_tensors(path: str | Path, form: str, description: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the tensors and metadata of a file that `save_tensors` wrote.

    Args:
        path: the file.
        form: the format that the file must have.
        description: what error messages call a file of this format, such as "a set of neurons".

    Raises:
        CheckpointError: there is no such file, it is damaged, or it has another format.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file; expected {description}")
    try:
        metadata = read_metadata(path)
        tensors = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not {description}, or is damaged ({error}); create it again") from None
    if metadata.get("format") != form:
        file_format = metadata.get("format", "another safetensors file")
        raise CheckpointError(f"{path} is {file_format}; expected {description} ({form})")
    return tensors, metadata


def read_metadata(path: str | Path) -> dict[str, str]:
    """Reads the metadata that `save_tensors` wrote, with the format. It is empty for files of other programs.

    Raises:
        SafetensorError: the file is damaged or is not a safetensors file.
    """
    with safe_open(path, framework="pt") as file:
        entries = file.metadata() or {}
    try:
        metadata = json.loads(entries.get(METADATA, "{}"))
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}
