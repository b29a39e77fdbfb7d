"""Files: written whole or not at all, and read with a sentence where they are something else."""

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

METADATA = "pymultiling"  # the one entry of a file's metadata: safetensors writes several in random order


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yields a path to write to, beside `path` and this process's own.

    What is there takes the place of `path` when the block ends well, and is gone when it does not.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_tensors(path: str | Path, tensors: dict[str, Tensor], form: str, metadata: dict[str, str]) -> None:
    """Writes a safetensors file that names its format; OSError where that is impossible.

    The same tensors and metadata give the same bytes.
    """
    entry = json.dumps({"format": form, **metadata}, sort_keys=True, ensure_ascii=False)
    with write_atomically(path) as partial:
        try:
            save_file(tensors, partial, metadata={METADATA: entry})
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error), str(path)) from None
        partial.chmod(0o644)  # safetensors makes it readable for its owner alone


def load_tensors(path: str | Path, form: str, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of a file of the format `form`; CheckpointError where it is damaged or another."""
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file; {what} was looked for")
    try:
        metadata = read_metadata(path)
        tensors = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not {what}, or is damaged ({error}); make it again") from None
    if metadata.get("format") != form:
        found = metadata.get("format", "another safetensors file")
        raise CheckpointError(f"{path} is {found}; {what} ({form}) was looked for")
    return tensors, metadata


def read_metadata(path: str | Path) -> dict[str, str]:
    """What `save_tensors` wrote beside the tensors; empty for a file that something else wrote.

    Raises:
        SafetensorError: the file is damaged or no safetensors file.
    """
    with safe_open(path, framework="pt") as file:
        entries = file.metadata() or {}
    try:
        metadata = json.loads(entries.get(METADATA, "{}"))
    except ValueError:
        return {}
    return metadata if isinstance(metadata, dict) else {}
