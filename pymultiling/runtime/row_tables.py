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
        """(n, *shape), of rows that were written."""

    def flush(self) -> None:
        """Whatever was written survives the end of this process."""

    def finished(self, present: Tensor) -> Tensor:
        """(rows, *shape), rows being the length of `present`: what was written, NaN where a row is not present."""


class MemoryTable:
    """A table in memory."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype):
        self.shape, self.dtype = torch.Size(shape), dtype
        self._values = torch.zeros(0, *shape, dtype=dtype)

    def write(self, rows: Tensor, values: Tensor) -> None:
        needed = int(rows.max()) + 1
        if needed > len(self._values):
            larger = self._values.new_zeros(max(needed, 2 * len(self._values)), *self._values.shape[1:])
            larger[: len(self._values)] = self._values
            self._values = larger
        self._values[rows] = values.to(self._values.dtype)

    def read(self, rows: Tensor) -> Tensor:
        return self._values[rows]

    def flush(self) -> None:
        pass

    def finished(self, present: Tensor) -> Tensor:
        values = self._values.new_zeros(len(present), *self._values.shape[1:])
        values[present] = self._values[: len(present)][present[: len(self._values)]]
        values[~present] = torch.nan
        return values


class FileTable:
    """A table in a file, which becomes a .npy file when it is finished. A file that is there is gone on with."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: torch.dtype):
        self._path, self.shape, self.dtype = path, torch.Size(shape), dtype
        self._bytes = dtype.itemsize * self.shape.numel()
        self._begin = len(self._header(0))  # numpy keeps room in it for any number of rows
        self._file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115, closed by close()

    def write(self, rows: Tensor, values: Tensor) -> None:
        for row, value in zip(rows.tolist(), values.to(self.dtype).contiguous().numpy()):
            self._file.seek(self._begin + row * self._bytes)
            self._file.write(value.tobytes())

    def read(self, rows: Tensor) -> Tensor:
        values = torch.empty(len(rows), *self.shape, dtype=self.dtype)
        for row, value in zip(rows.tolist(), values.numpy()):
            self._file.seek(self._begin + row * self._bytes)
            value[...] = numpy.frombuffer(self._file.read(self._bytes), value.dtype).reshape(self.shape)
        return values

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def finished(self, present: Tensor) -> Tensor:
        self._file.truncate(self._begin + len(present) * self._bytes)
        self._file.seek(0)
        self._file.write(self._header(len(present)))
        self._file.flush()
        values = torch.from_numpy(npy.open_memmap(self._path, "r+"))
        values[~present] = torch.nan
        return values

    def close(self) -> None:
        self._file.close()

    def _header(self, rows: int) -> bytes:
        header = io.BytesIO()
        described = npy.dtype_to_descr(numpy.dtype(DTYPES[self.dtype]))
        npy.write_array_header_1_0(
            header, {"descr": described, "fortran_order": False, "shape": (rows, *self.shape)}
        )
        return header.getvalue()
