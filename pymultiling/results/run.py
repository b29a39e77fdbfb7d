"""A run's record, run.json: what was run on what, with which versions. Importing is light."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pymultiling import __version__
from pymultiling.errors import CorpusError

RECORD_FILE = "run.json"


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
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
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
        record = {**self.record, "seconds": seconds, "files": files_in(folder)}
        (folder / RECORD_FILE).write_text(json.dumps(record, indent=2, default=str, ensure_ascii=False) + "\n", "utf-8")


def files_in(folder: Path) -> list[str]:
    """The names of all files in a folder and in those in it, sorted."""
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
