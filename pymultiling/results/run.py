"""What a run leaves behind: a folder that is written whole or not at all, and run.json. Importing is light."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from pymultiling import __version__
from pymultiling.errors import CheckpointError, CorpusError

RECORD = "run.json"


class Run:
    """A run's record, to become run.json: what was run on what, with which versions, and how long each stage took."""

    def __init__(self, command: str, arguments: Mapping[str, object], declared: Mapping[str, object] | None = None):
        """
        Args:
            command: its name.
            arguments: what it was given, defaults too.
            declared: what the command says of itself, for who publishes the results: `card` {"title", "about", "papers": {arXiv
                number: what of it is used}}; `command_line` {argument: the words that give it}; `published_whole`
                {"arguments": names, "facts": names of other parts of the record}, what holds texts, and no paths.
        """
        self.started = time.monotonic()
        self.record: dict[str, object] = {
            "command": command,
            "arguments": dict(arguments),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": versions(),
            "seed": None,
            **(declared or {}),
        }
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the block under this name."""
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 3)

    def note(self, **facts: object) -> None:
        """Adds facts to the record."""
        self.record.update(facts)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def write(self, folder: Path) -> None:
        """Writes run.json, with the names of the other files in the folder, by which a later run knows its own."""
        seconds = {**self.seconds, "total": round(self.elapsed, 3)}
        record = {**self.record, "seconds": seconds, "files": _files(folder)}
        (folder / RECORD).write_text(json.dumps(record, indent=2, default=str, ensure_ascii=False) + "\n", "utf-8")


@contextmanager
def result_folder(out: str | Path) -> Iterator[Path]:
    """Yields a folder to fill; it becomes `out` when the block ends well, and is gone when it does not.

    A former run's folder is replaced; one with anything else in it is not touched.

    Raises:
        CheckpointError: `out` is taken.
    """
    out = check_free(out)
    partial, former = (out.with_name(f".{out.name}.{os.getpid()}.{kind}") for kind in ("partial", "former"))
    partial.mkdir()
    try:
        yield partial
        if out.exists():
            out.rename(former)
        partial.rename(out)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(out: str | Path) -> Path:
    """`out`, absolute.

    Raises:
        CheckpointError: a result folder cannot become it.
        OSError: nothing can be written beside it.
    """
    out = Path(out).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent).cleanup()
    if not out.exists():
        return out
    if not out.is_dir() or os.path.ismount(out):
        raise CheckpointError(f"{out} is a {'mount point' if out.is_dir() else 'file'}: give --out another folder")
    files = _files(out)
    try:
        record = json.loads((out / RECORD).read_text("utf-8")) if files else {"files": []}
        known = {RECORD, *record["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    others = [file for file in files if file not in known]
    if others:
        raise CheckpointError(f"{out} holds other files, such as {others[0]}: give --out a new folder")
    return out


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def versions() -> dict[str, str]:
    """Versions of what decides the numbers; importing none of it."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"pymultiling": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "tokenizers", "safetensors", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def file_hash(path: str | Path) -> str:
    """SHA-256 of a corpus file."""
    if not Path(path).is_file():
        raise CorpusError(f"{path}: no such file")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def text_hash(texts: list[str]) -> str:
    """SHA-256 of texts, one a line, in UTF-8."""
    return hashlib.sha256("".join(f"{text}\n" for text in texts).encode()).hexdigest()
