"""Tables whose rows come in any order, and whose length shows at the end; in memory, or in a file that memory does not hold."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Protocol

import numpy
import torch
from numpy.lib import format as npy
from torch import Tensor

DTYPES = {torch.float16: numpy.float16, torch.float32: numpy.float32, torch.float64: numpy.float64}


class RowTable(Protocol):
    """Rows of one shape and dtype, by number; a row that is written again is replaced."""

    shape: torch.Size
    dtype: torch.dtype

    def write(self, rows: Tensor, values: Tensor) -> None:
        """rows: (n,) int64; values: (n, *shape)."""

    def read(self, rows: Tensor) -> Tensor:
        """(n, *shape); zeros for rows that are not there."""

    def flush(self) -> None:
        """What was written to a file survives the end of this process."""

    def finish(self, present: Tensor) -> Tensor:
        """(rows, *shape), rows being the length of `present`: what was written, NaN where a row is not present."""


class MemoryTable:
    """A table in memory; `rows`: how many are expected."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, rows: int = 0):
        self.shape, self.dtype = torch.Size(shape), dtype
        self._values = torch.zeros(rows, *shape, dtype=dtype)

    def write(self, rows: Tensor, values: Tensor) -> None:
        if len(rows):
            self._hold(int(rows.max()) + 1, spare=True)
            self._values[rows] = values.to(self.dtype)

    def read(self, rows: Tensor) -> Tensor:
        return self._values[rows]

    def flush(self) -> None:
        pass

    def finish(self, present: Tensor) -> Tensor:
        self._hold(len(present))
        values = self._values[: len(present)]
        values[~present] = torch.nan
        return values

    def _hold(self, rows: int, spare: bool = False) -> None:
        """Makes room for so many rows; with `spare` for more, so that a table that grows is copied a few times only."""
        if rows > len(self._values):
            larger = self._values.new_zeros(max(rows, 2 * len(self._values) if spare else 0), *self.shape)
            larger[: len(self._values)] = self._values
            self._values = larger


class FileTable:
    """A table in a file, which becomes a .npy file when it is finished. The file is made by the first row; one that is there is
    gone on with."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: torch.dtype):
        self._path, self.shape, self.dtype = path, torch.Size(shape), dtype
        self._bytes = dtype.itemsize * self.shape.numel()
        self._begin = len(self._header(0))  # numpy keeps room in it for any number of rows

    def write(self, rows: Tensor, values: Tensor) -> None:
        with self._open() as file:
            for row, value in zip(rows.tolist(), values.to(self.dtype).contiguous().numpy()):
                file.seek(self._begin + row * self._bytes)
                file.write(value.tobytes())

    def read(self, rows: Tensor) -> Tensor:
        values = torch.zeros(len(rows), *self.shape, dtype=self.dtype)
        with self._open() as file:
            for row, value in zip(rows.tolist(), values.numpy()):
                file.seek(self._begin + row * self._bytes)
                content = file.read(self._bytes)
                if len(content) == self._bytes:
                    value[...] = numpy.frombuffer(content, value.dtype).reshape(self.shape)
        return values

    def flush(self) -> None:
        with self._open() as file:
            os.fsync(file.fileno())

    def finish(self, present: Tensor) -> Tensor:
        with self._open() as file:
            file.truncate(self._begin + len(present) * self._bytes)
            file.write(self._header(len(present)))
        values = torch.from_numpy(npy.open_memmap(self._path, "r+"))
        values[~present] = torch.nan
        return values

    def _open(self) -> io.BufferedRandom:
        self._path.touch()
        return open(self._path, "r+b")

    def _header(self, rows: int) -> bytes:
        header = io.BytesIO()
        described = npy.dtype_to_descr(numpy.dtype(DTYPES[self.dtype]))
        npy.write_array_header_1_0(header, {"descr": described, "fortran_order": False, "shape": (rows, *self.shape)})
        return header.getvalue()
