"""Checkpoints of a pass over corpora: what was measured of each corpus, and where the pass stands in it.

A folder has a part a process. In it every corpus has its last two states, each a safetensors file with the statistics and a
manifest with the place, what was run, and the checksums of both. The manifest is written last: without it there is no state.
Statistics too large for that keep their rows in a file beside the states, which says of each row whether it is what was written.
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

from pymultiling.data.chunks import ChunkStart
from pymultiling.data.corpora import CorpusReport
from pymultiling.errors import CheckpointError
from pymultiling.runtime.locking import locked
from pymultiling.runtime.processes import Processes
from pymultiling.runtime.storage import write_atomically

FORMAT = "pymultiling.checkpoint/1"
KEPT = 2  # states of a corpus: the last one and the one before it


@dataclass(frozen=True)
class PassState:
    """How far a pass has come in a corpus.

    Attributes:
        total: the statistics of what was measured.
        place: the chunk at hand.
        digest: the hash of the shard's rows up to its end.
        batches: how many of its batches were measured.
        documents: how many were measured in all.
        before: what became of the texts before it.
        report: of these and its own.
        ended: nothing more comes.
    """

    total: object
    place: ChunkStart = ChunkStart()
    digest: str = ""
    batches: int = 0
    documents: int = 0
    before: CorpusReport = field(default_factory=CorpusReport)
    report: CorpusReport = field(default_factory=CorpusReport)
    ended: bool = False


@dataclass(frozen=True)
class CheckpointInterval:
    """When a state is written: after so many seconds or documents, whichever comes first."""

    seconds: float
    documents: int | None = None

    def __post_init__(self) -> None:
        if not self.seconds > 0 or (self.documents is not None and self.documents < 1):
            raise ValueError("checkpoint_seconds must be above 0 and checkpoint_documents at least 1")


class Checkpoints:
    """The part of a checkpoint folder that is one process's; `opened` locks it."""

    def __init__(self, folder: Path, run: Mapping[str, object], every: CheckpointInterval):
        self._folder, self._every = folder, every
        self._run = json.loads(json.dumps({"format": FORMAT, **run}))  # as it is read again
        self._written, self._documents = time.monotonic(), 0

    def row_file(self, corpus: int) -> Path:
        """A file beside the states, for what a corpus's statistics keep elsewhere than in them."""
        return self._folder / f"{corpus}.rows"

    def restore(self, corpus: int, load: Callable[[Path], object]) -> PassState | None:
        """The last state of a corpus that is whole, a warning for every one that is not; None: there is none.

        load: reads the corpus's statistics.

        Raises:
            CheckpointError: it is the state of another run, or cannot be read now.
        """
        damaged: list[Path] = []
        numbers = sorted(self._numbers(corpus))
        while numbers:
            manifest, tensors = self._files(corpus, numbers.pop())
            try:
                body = _read(manifest, tensors)
                _check_same(self._run, body["run"], self._folder)
                for file in damaged:  # it does not count as one of those that are kept
                    file.unlink(missing_ok=True)
                return PassState(
                    _loaded(load, tensors),
                    _place(body["place"]),
                    body["digest"],
                    body["batches"],
                    body["documents"],
                    CorpusReport(**body["before"]),
                    CorpusReport(**body["report"]),
                    body["ended"],
                )
            except _Damaged as error:
                instead = "the one before it is used" if numbers else "the corpus begins anew"
                warnings.warn(f"checkpoint {manifest.with_suffix('')} is not whole ({error}): {instead}")
                damaged += [manifest, tensors]
        return None

    def measured(self, corpus: int, standing: PassState, documents: int) -> None:
        """Tells that so many more documents were measured; writes the state when it is time."""
        self._documents += documents
        late = time.monotonic() - self._written >= self._every.seconds
        if late or self._documents >= (self._every.documents or float("inf")):
            self.write(corpus, standing)

    def write(self, corpus: int, standing: PassState) -> None:
        """Writes the state of a corpus; where that is impossible, a warning: the states before it stay."""
        self._written, self._documents = time.monotonic(), 0
        try:
            numbers = self._numbers(corpus)
            number = max(numbers, default=-1) + 1
            self._write(*self._files(corpus, number), standing)
            for old in numbers:
                if old <= number - KEPT:
                    for file in self._files(corpus, old):
                        file.unlink(missing_ok=True)
        except Exception as error:  # a disk that is full has several
            warnings.warn(f"{self._folder} cannot hold another state ({error}): what it held stays")

    def _write(self, manifest: Path, tensors: Path, standing: PassState) -> None:
        try:
            standing.total.save(tensors)
            _sync(tensors)
            body = {
                "run": self._run,
                "place": _place_body(standing.place),
                "digest": standing.digest,
                "batches": standing.batches,
                "documents": standing.documents,
                "before": asdict(standing.before),
                "report": asdict(standing.report),
                "ended": standing.ended,
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
        names = (re.fullmatch(rf"{corpus}-(\d+)\.(json|safetensors)", file.name) for file in self._folder.iterdir())
        return {int(name[1]) for name in names if name}

    def _files(self, corpus: int, number: int) -> tuple[Path, Path]:
        return self._folder / f"{corpus}-{number}.json", self._folder / f"{corpus}-{number}.safetensors"


class NoCheckpoints:
    """Nothing is kept."""

    def row_file(self, corpus: int) -> None:
        return None

    def restore(self, corpus: int, load: Callable[[Path], object]) -> None:
        return None

    def measured(self, corpus: int, standing: PassState, documents: int) -> None:
        pass

    def write(self, corpus: int, standing: PassState) -> None:
        pass


@contextmanager
def opened(
    folder: str | Path | None,
    processes: Processes,
    run: Mapping[str, object],
    every: CheckpointInterval,
) -> Iterator[Checkpoints | NoCheckpoints]:
    """This process's checkpoints, for nobody else as long as the block lasts; none without a folder.

    Args:
        run: what decides the result; a checkpoint of another run is refused.

    Raises:
        CheckpointError: the folder cannot be written to, another run is using it, or it is of another number of processes.
    """
    if not folder:
        yield NoCheckpoints()
        return
    own = f"process-{processes.rank}-of-{processes.count}"
    try:
        others = [path.name for path in Path(folder).glob("process-*") if not path.name.endswith(f"-{processes.count}")]
        if others:
            count = others[0].rpartition("-")[2]
            raise CheckpointError(
                f"{folder} is a checkpoint of {count} processes, this run has {processes.count}: start as many, or give "
                "another folder"
            )
        part = Path(folder) / own
        part.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot hold checkpoints: {error.strerror or error}") from None
    with locked(part):
        for partial in part.glob("*.partial"):
            partial.unlink()
        yield Checkpoints(part, run, every)


class _Damaged(Exception):
    pass


def _loaded(load: Callable[[Path], object], tensors: Path) -> object:
    try:
        return load(tensors)
    except CheckpointError as error:
        raise _Damaged(str(error)) from None


def _read(manifest: Path, tensors: Path) -> dict:
    """A manifest that is whole, and whose tensors are."""
    try:
        body = json.loads(manifest.read_text("utf-8"))
        if body.pop("checksum") != _checksum(body):
            raise _Damaged("its manifest has another checksum")
        if _hash(tensors.read_bytes()) != body["tensors"]:
            raise _Damaged("its statistics have another checksum")
    except FileNotFoundError as error:
        raise _Damaged(f"there is no {Path(error.filename).name}") from None
    except OSError as error:
        raise CheckpointError(f"checkpoint {manifest.with_suffix('')} cannot be read now: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Damaged(f"its manifest cannot be read: {error}") from None
    return body


def _check_same(run: Mapping[str, object], other: Mapping[str, object], folder: Path) -> None:
    for name in {**run, **other}:
        ours, theirs = run.get(name), other.get(name)
        if ours != theirs:
            raise CheckpointError(
                f"{folder.parent} is a checkpoint of another run: its {name} was {theirs}, now it is {ours}; run it as it "
                "was, or give another folder"
            )


def _place_body(place: ChunkStart) -> dict:
    return {
        "shard": place.shard,
        "row": place.record,
        "chunk": place.chunk,
        "digest": place.digest,
        "finished": list(place.finished.items()),
    }


def _place(body: dict) -> ChunkStart:
    finished = {number: tuple(what) for number, what in body["finished"]}
    return ChunkStart(body["shard"], body["row"], body["chunk"], body["digest"], finished)


def _checksum(body: dict) -> str:
    return _hash(json.dumps(body, sort_keys=True).encode())


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sync(path: Path) -> None:
    """Makes sure that a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
