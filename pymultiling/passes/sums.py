"""Sums: statistics of a pass that are plain tensors and are added up over batches."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pymultiling.runtime.device_copies import add
from pymultiling.runtime.processes import Processes
from pymultiling.runtime.storage import save_tensors
from pymultiling.runtime.tensor_files import TensorSchema, open_tensors

FORMAT = "pymultiling.sums/1"


class Sums(dict[str, Tensor]):
    """{name: tensor}. `a + b` adds the tensors of the same name; the sums are on the devices of b."""

    def __add__(self, other: Sums) -> Sums:
        if self.keys() != other.keys():
            raise ValueError(f"sums of different tensors cannot be added: {', '.join(self)} and {', '.join(other)}")
        return Sums({name: add(value, other[name]) for name, value in self.items()})

    def over(self, processes: Processes) -> Sums:
        """Returns the sums over all processes, on the CPU."""
        return Sums({name: processes.total(self[name].cpu()) for name in sorted(self)})

    def save(self, path: Path) -> None:
        """Writes a safetensors file."""
        save_tensors(path, dict(self), FORMAT, {})

    def load(self, path: Path) -> Sums:
        """Reads a file that `save` wrote for sums with the names, shapes and dtypes of these.

        Raises:
            CheckpointError: there is no such file, or it is damaged or holds other sums.
        """
        with open_tensors(path, FORMAT, "sums of a pass") as file:
            return Sums(file.read({name: _schema(value) for name, value in self.items()}))


def _schema(value: Tensor) -> TensorSchema:
    """Returns what a sum of the same shape and dtype is. Counts are integers, and not below 0."""
    is_float = value.dtype.is_floating_point
    return TensorSchema((value.dtype,), tuple(value.shape), None if is_float else 0, finite=False)
