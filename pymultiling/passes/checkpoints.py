"""Checkpoints of a pass: for each corpus, the statistics of what was measured and where the pass goes on.

A checkpoint folder has a part for each process. In it, every corpus has its last two states. A state is a safetensors
file with the statistics, and a manifest with the position, the settings of the run, and checksums of both. The manifest
is written last, so a state without one is incomplete. Statistics that are too large for this keep their rows in a row
file next to the states, and the state has checksums of these rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeAlias, TypeVar

from pymultiling.data.chunks import ChunkStart
from pymultiling.data.corpora import CorpusReport
from pymultiling.errors import CheckpointError
from pymultiling.runtime.locking import lock_folder
from pymultiling.runtime.processes import Processes
from pymultiling.runtime.storage import write_atomically
from pymultiling.runtime.tensor_files import shorten

if TYPE_CHECKING:
    from pymultiling.passes.manifest_schema import ManifestSchema, Place

FORMAT = "pymultiling.checkpoint/1"
STATES = 2  # of each corpus: the last one and the previous one

Manifest: TypeAlias = dict[str, Any]  # the JSON of a manifest file


class Statistics(Protocol):
    """What a pass adds up."""

    def __add__(self, other: Self, /) -> Self:
        """Returns the statistics of both."""

    def over(self, processes: Processes, /) -> Self:
        """Returns the sum of the statistics of all processes, each of which must call this."""

    def save(self, path: Path, /) -> None:
        """Writes a safetensors file."""

    def load(self, path: Path, /) -> Self:
        """Reads a file that `save` wrote."""


S = TypeVar("S", bound=Statistics)


@dataclass(frozen=True)
class PassState(Generic[S]):
    """How far a pass has come in a corpus.

    Attributes:
        total: statistics of the documents that were measured.
        start: where the current chunk starts.
        digest: hash of the shard's records up to the end of the current chunk.
        batches: how many batches of the current chunk were measured.
        documents: how many documents were measured in all.
        report_before: report of the texts before the current chunk.
        report: report of the texts up to the end of the current chunk.
        ended: whether the whole corpus was measured.
        batch_tokens: tokens of a forward in this pass; None: not decided yet.
    """

    total: S
    start: ChunkStart = field(default_factory=ChunkStart)
    digest: str = ""
    batches: int = 0
    documents: int = 0
    report_before: CorpusReport = field(default_factory=CorpusReport)
    report: CorpusReport = field(default_factory=CorpusReport)
    ended: bool = False
    batch_tokens: int | None = None


@dataclass(frozen=True)
class CheckpointInterval:
    """How often a state is written: after this many seconds or documents, whichever comes first."""

    seconds: float
    documents: int | None = None

    def __post_init__(self) -> None:
        if not self.seconds > 0 or (self.documents is not None and self.documents < 1):
            raise ValueError("checkpoint_seconds must be above 0 and checkpoint_documents at least 1")


class Checkpoints:
    """One process's part of a checkpoint folder, which `open_checkpoints` locks."""

    def __init__(self, folder: Path, run: Mapping[str, object], interval: CheckpointInterval):
        """Uses an existing folder.

        Args:
            folder: the part of this process.
            run: the settings that determine the result.
            interval: how often a state is written.
        """
        self._folder, self._interval = folder, interval
        self._run: Manifest = json.loads(json.dumps({"format": FORMAT, **run}))  # has the types that JSON gives
        self._last_written = time.monotonic()
        self._unsaved_documents = 0  # measured since the last state was written

    def row_file(self, corpus: int) -> Path | None:
        """Returns the path of a file next to the states, for statistics that do not store their rows in a state."""
        return self._folder / f"{corpus}.rows"

    def restore(self, corpus: int, load: Callable[[Path], S]) -> PassState[S] | None:
        """Reads the last undamaged state of a corpus, and warns of every damaged one.

        Args:
            corpus: number of the corpus.
            load: reads the statistics of the corpus.

        Returns:
            The state, or None if there is none.

        Raises:
            CheckpointError: the state belongs to another run, or cannot be read at the moment.
        """
        damaged: list[Path] = []
        numbers = sorted(self._numbers(corpus))
        while numbers:
            manifest, tensors = self._files(corpus, numbers.pop())
            try:
                stored = _read_manifest(manifest, tensors)
                _check_same_run(self._run, stored.run, self._folder)
                for file in damaged:  # damaged states do not count as one of the two that are kept
                    file.unlink(missing_ok=True)
                return PassState(
                    total=_load_statistics(load, tensors),
                    start=_parse_start(stored.place),
                    digest=stored.digest,
                    batches=stored.batches,
                    documents=stored.documents,
                    report_before=CorpusReport(**stored.before.model_dump()),
                    report=CorpusReport(**stored.report.model_dump()),
                    ended=stored.ended,
                    batch_tokens=stored.batch_tokens,
                )
            except _DamagedError as error:
                consequence = "the previous one is used" if numbers else "the corpus is measured from the start"
                warnings.warn(
                    f"checkpoint {manifest.with_suffix('')} is damaged ({error}): {consequence}", stacklevel=2
                )
                damaged += [manifest, tensors]
        return None

    def update(self, corpus: int, state: PassState[S], documents: int) -> None:
        """Counts documents that were measured, and writes the state if the interval is over."""
        self._unsaved_documents += documents
        is_late = time.monotonic() - self._last_written >= self._interval.seconds
        if is_late or self._unsaved_documents >= (self._interval.documents or float("inf")):
            self.write(corpus, state)

    def write(self, corpus: int, state: PassState[S]) -> None:
        """Writes the state of a corpus. If that fails, it warns and keeps the earlier states."""
        self._last_written, self._unsaved_documents = time.monotonic(), 0
        try:
            numbers = self._numbers(corpus)
            number = max(numbers, default=-1) + 1
            self._write_files(*self._files(corpus, number), state)
            for old in numbers:
                if old <= number - STATES:
                    for file in self._files(corpus, old):
                        file.unlink(missing_ok=True)
        except Exception as error:  # noqa: BLE001 - a full disk raises exceptions of several packages
            warnings.warn(f"{self._folder} cannot store a new state ({error}): the earlier ones stay", stacklevel=2)

    def _write_files(self, manifest: Path, tensors: Path, state: PassState[S]) -> None:
        """Writes the statistics and then the manifest. After an exception the statistics are removed."""
        try:
            state.total.save(tensors)
            _sync(tensors)
            body = {
                "run": self._run,
                "place": _format_start(state.start),
                "digest": state.digest,
                "batches": state.batches,
                "documents": state.documents,
                "before": asdict(state.report_before),
                "report": asdict(state.report),
                "ended": state.ended,
                "batch_tokens": state.batch_tokens,
                "tensors": _hash(tensors.read_bytes()),
            }
            with write_atomically(manifest) as partial:
                partial.write_text(json.dumps({"checksum": _checksum(body), **body}, indent=1), "utf-8")
                _sync(partial)
            _sync(self._folder)
        except Exception:
            tensors.unlink(missing_ok=True)
            raise

    def _numbers(self, corpus: int) -> set[int]:
        """Returns the numbers of the states of a corpus, also of incomplete ones."""
        matches = (re.fullmatch(rf"{corpus}-(\d+)\.(json|safetensors)", file.name) for file in self._folder.iterdir())
        return {int(match[1]) for match in matches if match}

    def _files(self, corpus: int, number: int) -> tuple[Path, Path]:
        """Returns the paths of a state's manifest and of its statistics."""
        return self._folder / f"{corpus}-{number}.json", self._folder / f"{corpus}-{number}.safetensors"


class NoCheckpoints:
    """Stores nothing, with the methods of Checkpoints."""

    def row_file(self, corpus: int) -> Path | None:
        """Returns None."""
        return None

    def restore(self, corpus: int, load: Callable[[Path], S]) -> PassState[S] | None:
        """Returns None."""
        return None

    def update(self, corpus: int, state: PassState[S], documents: int) -> None:
        """Does nothing."""

    def write(self, corpus: int, state: PassState[S]) -> None:
        """Does nothing."""


@contextmanager
def open_checkpoints(
    folder: str | Path | None,
    processes: Processes,
    run: Mapping[str, object],
    interval: CheckpointInterval,
) -> Iterator[Checkpoints | NoCheckpoints]:
    """Yields this process's checkpoints, and locks them until the end of the block.

    Args:
        folder: the checkpoint folder, or None: no states are stored.
        processes: the processes of the run.
        run: the settings that determine the result. A checkpoint with other settings is refused.
        interval: how often a state is written.

    Raises:
        CheckpointError: the folder cannot be written to, another run uses it, or it belongs to another number of
            processes.
    """
    if not folder:
        yield NoCheckpoints()
        return
    try:
        mismatched_parts = [  # of a run with another number of processes
            path.name for path in Path(folder).glob("process-*") if not path.name.endswith(f"-{processes.count}")
        ]
        if mismatched_parts:
            count = mismatched_parts[0].rpartition("-")[2]
            raise CheckpointError(
                f"{folder} is a checkpoint of {count} processes, this run has {processes.count}: start as many, "
                "or give another folder"
            )
        process_folder = Path(folder) / f"process-{processes.rank}-of-{processes.count}"
        process_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot hold checkpoints ({error.strerror or error}): give another folder"
        ) from None
    with lock_folder(process_folder):
        for partial in process_folder.glob("*.partial"):
            partial.unlink()
        yield Checkpoints(process_folder, run, interval)


class _DamagedError(Exception):
    """A state is damaged."""


def _load_statistics(load: Callable[[Path], S], tensors: Path) -> S:
    """Loads statistics; a file that cannot be used counts as a damaged state."""
    try:
        return load(tensors)
    except CheckpointError as error:
        raise _DamagedError(str(error)) from None


def _read_manifest(manifest: Path, tensors: Path) -> ManifestSchema:
    """Reads a manifest, and checks it, its checksum and that of its statistics."""
    from pymultiling.passes.manifest_schema import ManifestSchema
    from pymultiling.runtime.schemas import SchemaError, check_record

    try:
        body = json.loads(manifest.read_text("utf-8"))
        if not isinstance(body, dict):
            raise _DamagedError("its manifest is not a JSON object")
        if body.pop("checksum", None) != _checksum(body):
            raise _DamagedError("its manifest has another checksum")
        stored = check_record(ManifestSchema, body)
        if _hash(tensors.read_bytes()) != stored.tensors:
            raise _DamagedError("its statistics have another checksum")
    except FileNotFoundError as error:
        raise _DamagedError(f"{Path(error.filename).name} is missing") from None
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {manifest.with_suffix('')} cannot be read now ({error}): try again"
        ) from None
    except SchemaError as error:
        raise _DamagedError(f"in its manifest {error}") from None
    except (ValueError, RecursionError) as error:
        raise _DamagedError(f"its manifest cannot be read: {error}") from None
    return stored


def _check_same_run(run: Manifest, stored: Manifest, folder: Path) -> None:
    """Raises a CheckpointError with the first setting in which the run of the checkpoint differs from this one."""
    for name in {**run, **stored}:
        if run.get(name) != stored.get(name):
            raise CheckpointError(
                f"{folder.parent} is a checkpoint of another run: its {name} was {shorten(str(stored.get(name)))}, now "
                f"it is {run.get(name)}; use the earlier value, give another folder, or delete this one"
            )


def _format_start(start: ChunkStart) -> Manifest:
    return {
        "shard": start.shard,
        "row": start.record,
        "chunk": start.chunk,
        "digest": start.digest,
        "finished": list(start.finished.items()),
        "tokens": start.tokens,
    }


def _parse_start(place: Place) -> ChunkStart:
    return ChunkStart(place.shard, place.row, place.chunk, place.digest, dict(place.finished), place.tokens)


def _checksum(body: Manifest) -> str:
    return _hash(json.dumps(body, sort_keys=True).encode())


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sync(path: Path) -> None:
    """Makes sure that a file, or the names of files in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    # Windows syncs only files that are open for writing. A folder cannot be opened for writing.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
