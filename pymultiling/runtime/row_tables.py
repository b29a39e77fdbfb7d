"""Tables that are filled row by row in any order: in memory, or in a file if they are too large for memory."""

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
    """A table of numbered rows. Its length is not known before it is finished.

    Attributes:
        shape: the shape of a row.
        dtype: the dtype of all rows.
    """

    shape: torch.Size
    dtype: torch.dtype

    def write(self, rows: Tensor, values: Tensor) -> None:
        """Writes values (n, *shape) into rows (n,) int64, replacing rows that were written before."""

    def read(self, rows: Tensor) -> Tensor:
        """Returns the values (n, *shape) of rows (n,) int64. Rows that were not written have zeros."""

    def flush(self) -> None:
        """Makes sure that all written rows are on the disk, if the table is in a file."""

    def finish(self, present: Tensor) -> Tensor:
        """Returns the table (len(present), *shape), with NaN in rows that are False in present (rows,) bool."""


class MemoryTable:
    """A table in memory."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, rows: int = 0):
        """Makes a table with room for `rows` rows, which grows when more are written."""
        self.shape, self.dtype = torch.Size(shape), dtype
        self._values = torch.zeros(rows, *shape, dtype=dtype)

    def write(self, rows: Tensor, values: Tensor) -> None:
        if len(rows):
            self._reserve(int(rows.max()) + 1, doubling=True)
            self._values[rows] = values.to(self.dtype)

    def read(self, rows: Tensor) -> Tensor:
        return self._values[rows]

    def flush(self) -> None:
        pass

    def finish(self, present: Tensor) -> Tensor:
        self._reserve(len(present))
        values = self._values[: len(present)]
        values[~present] = torch.nan
        return values

    def _reserve(self, rows: int, doubling: bool = False) -> None:
        """Makes room for `rows` rows. With `doubling`, it at least doubles when it grows, so that it grows rarely."""
        if rows > len(self._values):
            larger = self._values.new_zeros(max(rows, 2 * len(self._values) if doubling else 0), *self.shape)
            larger[: len(self._values)] = self._values
            self._values = larger


class FileTable:
    """A table in a file, which is a .npy file after `finish`. The rows of a file that exists already are kept."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: torch.dtype):
        self._path, self.shape, self.dtype = path, torch.Size(shape), dtype
        self._row_bytes = dtype.itemsize * self.shape.numel()
        self._header_bytes = len(self._header(0))  # numpy pads it, so that any number of rows fits

    def write(self, rows: Tensor, values: Tensor) -> None:
        with self._open() as file:
            for row, value in zip(rows.tolist(), values.to(self.dtype).contiguous().numpy()):
                file.seek(self._header_bytes + row * self._row_bytes)
                file.write(value.tobytes())

    def read(self, rows: Tensor) -> Tensor:
        values = torch.zeros(len(rows), *self.shape, dtype=self.dtype)
        with self._open() as file:
            for row, value in zip(rows.tolist(), values.numpy()):
                file.seek(self._header_bytes + row * self._row_bytes)
                content = file.read(self._row_bytes)
                if len(content) == self._row_bytes:
                    value[...] = numpy.frombuffer(content, value.dtype).reshape(self.shape)
        return values

    def flush(self) -> None:
        with self._open() as file:
            os.fsync(file.fileno())

    def finish(self, present: Tensor) -> Tensor:
        with self._open() as file:
            file.truncate(self._header_bytes + len(present) * self._row_bytes)
            file.write(self._header(len(present)))
        values = torch.from_numpy(npy.open_memmap(self._path, "r+"))
        values[~present] = torch.nan
        return values

    def _open(self) -> io.BufferedRandom:
        self._path.touch()
        return self._path.open("r+b")

    def _header(self, rows: int) -> bytes:
        header = io.BytesIO()
        dtype = npy.dtype_to_descr(numpy.dtype(DTYPES[self.dtype]))
        npy.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": (rows, *self.shape)})
        return header.getvalue()
