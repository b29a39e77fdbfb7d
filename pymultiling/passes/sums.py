"""Sums over batches: what a pass adds up where plain tensors say it all."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pymultiling.errors import CheckpointError
from pymultiling.runtime.processes import Processes
from pymultiling.runtime.storage import load_tensors, save_tensors

FORMAT = "pymultiling.sums/1"


class Sums(dict[str, Tensor]):
    """{name: tensor on the CPU}, a commutative monoid under +: tensors of the same name add."""

    def __add__(self, other: Sums) -> Sums:
        if self.keys() != other.keys():
            raise ValueError(f"sums of different things do not add: {', '.join(self)} and {', '.join(other)}")
        return Sums({name: value + other[name] for name, value in self.items()})

    def over(self, processes: Processes) -> Sums:
        """Those of all processes together."""
        return Sums({name: processes.total(self[name]) for name in sorted(self)})

    def save(self, path: Path) -> None:
        """Writes a safetensors file."""
        save_tensors(path, dict(self), FORMAT, {})

    @classmethod
    def load(cls, path: Path) -> Sums:
        """Reads what `save` wrote; CheckpointError where the file is damaged or something else."""
        tensors, _ = load_tensors(path, FORMAT, "sums of a pass")
        if not tensors:
            raise CheckpointError(f"{path} holds no sums: it is damaged")
        return cls(tensors)
