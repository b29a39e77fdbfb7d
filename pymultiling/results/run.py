"""The record of a run, run.json: command, arguments, versions and times. Imports no heavy packages."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pymultiling import __version__
from pymultiling.errors import CorpusError

RECORD_FILE, REPORT_FILE = "run.json", "report.html"

_logger = logging.getLogger(__name__)


class Run:
    """The record of a run, written to run.json.

    Attributes:
        clock_at_start: `time.monotonic()` at the start. The time of day is in the record, as "started".
        record: what run.json will hold, except "seconds" and "files".
        seconds: {stage: seconds that it took}.
    """

    def __init__(self, command: str, arguments: Mapping[str, object], declared: Mapping[str, object] | None = None):
        """Starts the record of a run.

        Args:
            command: name of the command.
            arguments: {name: value} of all arguments, with defaults.
            declared: facts about the command that `pymultiling push` needs, added to the record:
                "card": {"title", "about", "papers": {arXiv number: what of the paper is used}};
                "command_line": {argument: the words of the command line that give it};
                "published_whole": {"arguments": names, "facts": names of other parts of the record}, the parts that
                hold texts and no paths.
        """
        self.clock_at_start = time.monotonic()
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
        """Measures how long the block takes, as stage `name`."""
        clock_at_start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - clock_at_start, 3)
        _logger.debug("%s: %.1f s", name, self.seconds[name])

    def note(self, **facts: object) -> None:
        """Adds facts to the record."""
        self.record.update(facts)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.clock_at_start

    def write(self, folder: Path) -> None:
        """Writes run.json into the folder.

        It lists the other files of the folder, so that a later run knows which files it may replace.
        """
        seconds = {**self.seconds, "total": round(self.elapsed, 3)}
        record = {**self.record, "seconds": seconds, "files": files_in(folder)}
        (folder / RECORD_FILE).write_text(json.dumps(record, indent=2, default=str, ensure_ascii=False) + "\n", "utf-8")


def files_in(folder: Path) -> list[str]:
    """Returns the relative paths of all files in a folder and its subfolders, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def versions() -> dict[str, str]:
    """Returns {package: version} of the packages that affect results, without importing them."""
    from importlib.metadata import PackageNotFoundError, version

    installed = {"pymultiling": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "tokenizers", "safetensors", "numpy"):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def file_hash(path: str | Path) -> str:
    """Returns the SHA-256 of a corpus file.

    Raises:
        CorpusError: there is no such file.
    """
    if not Path(path).is_file():
        raise CorpusError(f"{path}: no such file; check the path")
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def text_hash(texts: list[str]) -> str:
    """Returns the SHA-256 of a UTF-8 file that holds these texts, one a line."""
    return hashlib.sha256("".join(f"{text}\n" for text in texts).encode()).hexdigest()
