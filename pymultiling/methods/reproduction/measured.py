"""The measured values of a reproduction, in files, so that the same command goes on where an earlier one ended."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from pymultiling.errors import CheckpointError
from pymultiling.neurons.sets import NeuronSet
from pymultiling.runtime.storage import save_tensors, write_atomically
from pymultiling.runtime.tensor_files import FLOATS, TensorSchema, open_tensors

FORMAT = "pymultiling.measured/1"
SETTINGS, ROUNDS, DETECTION = "settings.json", "rounds.json", "detection"
BLOCK = re.compile(r"(\d{6})-(\d{6})\.safetensors")


class Summed(Protocol):
    """Statistics of texts: those of more texts are added to them."""

    def __add__(self, other: Self, /) -> Self: ...

    def save(self, path: Path, /) -> None:
        """Writes them to a file."""


S = TypeVar("S", bound=Summed)


@dataclass(frozen=True)
class Kind(Generic[S]):
    """A kind of statistics that is measured in rounds.

    Attributes:
        label: what is done, for the progress.
        folder: the folder of the results that has their files after a run that ended.
        load: reads a file that their `save` has written.
    """

    label: str
    folder: str
    load: Callable[[Path], S]


class Measured:
    """Values of items, in blocks of consecutive items, and statistics that are measured in rounds.

    Attributes:
        folder: where the files are; `pymultiling.results.folders` knows their names.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        """Opens the folder, or creates it.

        Args:
            folder: the folder.
            settings: what the values depend on, as JSON values: they belong to no other run.

        Raises:
            CheckpointError: the folder has the values of other settings.
        """
        self.folder = folder
        self._blocks: dict[str, list[Tensor]] = {}
        file = folder / SETTINGS
        settings = json.loads(json.dumps(settings))
        if file.is_file():
            self._refuse_others(json.loads(file.read_text("utf-8")), settings)
            return
        folder.mkdir(parents=True, exist_ok=True)
        with write_atomically(file) as partial:
            partial.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")

    def _refuse_others(self, known: Mapping[str, object], settings: Mapping[str, object]) -> None:
        different = [name for name in settings if known.get(name) != settings[name]]
        if different:
            raise CheckpointError(
                f"{self.folder} has what a run with another {' and another '.join(different)} measured: give --out "
                "another folder, or remove this one"
            )

    def count(self, name: str) -> int:
        """Returns how many of the first items have values under this name."""
        return sum(map(len, self._read(name)))

    def values(self, name: str) -> Tensor:
        """Returns the values of the first items, (items, columns), in the dtype that they were added in."""
        return torch.cat(self._read(name))

    def add(self, name: str, values: Tensor) -> None:
        """Writes the values of the next items, (items, columns) float64 or float32, not NaN."""
        start = self.count(name)
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        values = values.contiguous()
        save_tensors(folder / f"{start:06}-{start + len(values):06}.safetensors", {"values": values}, FORMAT, {})
        self._blocks[name].append(values)

    def _read(self, name: str) -> list[Tensor]:
        if name not in self._blocks:
            blocks: list[Tensor] = []
            folder = self.folder / name
            for file in sorted(folder.iterdir()) if folder.is_dir() else ():
                match = BLOCK.fullmatch(file.name)
                if match is None or int(match[1]) != sum(map(len, blocks)):
                    continue
                with open_tensors(file, FORMAT, "measured values") as tensors:
                    schema = TensorSchema(FLOATS, (int(match[2]) - int(match[1]), "columns"))
                    blocks.append(tensors.read({"values": schema})["values"])
            self._blocks[name] = blocks
        return self._blocks[name]

    def statistics(self, names: Iterable[str], kind: Kind[S]) -> tuple[int, dict[str, S]]:
        """Returns how many rounds are done, and {name: statistics}; 0 and {} before the first.

        After a run that ended, the statistics are in the results, the folder that contains this one.
        """
        rounds = [folder for folder in (self.folder / DETECTION).glob("*") if folder.name.isdecimal()]
        for folder in sorted(rounds, key=lambda folder: -int(folder.name)):
            if (files := _complete(folder, names)) is not None:
                return int(folder.name), {name: kind.load(file) for name, file in files.items()}
        files = _complete(self.folder.parent / kind.folder, names)
        if files is None or not (self.folder / ROUNDS).is_file():
            return 0, {}
        done: int = json.loads((self.folder / ROUNDS).read_text("utf-8"))
        return done, {name: kind.load(file) for name, file in files.items()}

    def keep_statistics(self, rounds: int, statistics: Mapping[str, Summed]) -> None:
        """Writes the statistics after so many rounds, and removes those of earlier rounds."""
        folder = self.folder / DETECTION / f"{rounds:06}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, of_name in statistics.items():
            of_name.save(folder / f"{name}.safetensors")
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other)

    def copy_to(self, folder: Path, rounds: int | None = None) -> None:
        """Copies the values that were read or written into a folder of the results.

        Args:
            folder: the new folder.
            rounds: rounds of the statistics that are in the results; None: there are none.
        """
        folder.mkdir()
        shutil.copyfile(self.folder / SETTINGS, folder / SETTINGS)
        if rounds is not None:
            (folder / ROUNDS).write_text(f"{rounds}\n", "utf-8")
        for name in self._blocks:
            if (self.folder / name).is_dir():
                shutil.copytree(self.folder / name, folder / name, ignore=shutil.ignore_patterns("*.partial"))


def _complete(folder: Path, names: Iterable[str]) -> dict[str, Path] | None:
    """Returns {name: its file in the folder}, or None if one is missing."""
    files = {name: folder / f"{name}.safetensors" for name in names}
    return files if all(file.is_file() for file in files.values()) else None


def sets_digest(sets: Iterable[NeuronSet | None]) -> str:
    """Returns 16 hexadecimal digits that change with the members and the order of the sets."""
    digest = hashlib.blake2b(digest_size=8)
    for neurons in sets:
        for site, mask in sorted(({} if neurons is None else neurons.sites).items()):
            digest.update(f"{site} {tuple(mask.shape)}".encode())
            digest.update(mask.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        digest.update(b"|")
    return digest.hexdigest()
