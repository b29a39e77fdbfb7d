"""TableRows: statistics of a pass that are too large to be added up in memory, and are written as rows of a table."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from pymultiling.errors import CheckpointError
from pymultiling.runtime.processes import Processes
from pymultiling.runtime.row_tables import MemoryTable, RowTable
from pymultiling.runtime.storage import save_tensors
from pymultiling.runtime.tensor_files import TensorSchema, open_tensors

FORMAT = "pymultiling.rows/1"
NUMBERS = 2**24  # how many numbers of a table are read, or exchanged with other processes, at a time
ABSENT = -1  # instead of the checksum of a row that is not written
MAX_CHECKSUM = 2**32 - 1


class _PickledRows(TypedDict):
    checksums: Tensor
    shape: torch.Size
    dtype: torch.dtype
    values: Tensor


class TableRows:
    """The rows of a table that are written. `a + b` has the rows of both, in the table of a. No row may be in both.

    Attributes:
        table: holds the rows.
        checksums: (n,) int64, CRC-32 of rows 0 ... n - 1, -1 if a row is not written. Later rows are not written.
    """

    def __init__(self, table: RowTable, checksums: Tensor | None = None):
        """Makes the rows of a table with these checksums, or no rows."""
        self.table = table
        self.checksums = torch.zeros(0, dtype=torch.int64) if checksums is None else checksums

    @classmethod
    def write(cls, table: RowTable, rows: Tensor, values: Tensor) -> TableRows:
        """Writes values (n, *shape), which have the table's dtype, into rows (n,) int64, and returns these rows."""
        table.write(rows, values)
        checksums = torch.full((int(rows.max()) + 1 if len(rows) else 0,), ABSENT)
        checksums[rows] = _checksums(values)
        return cls(table, checksums)

    @property
    def present(self) -> Tensor:
        """(n,) bool: which rows are written."""
        return self.checksums != ABSENT

    def __add__(self, other: TableRows) -> TableRows:
        if other.table is not self.table:  # `other` came from another process
            rows = other.present.nonzero().flatten()
            self.table.write(rows, other.table.read(rows))
        count = max(len(self.checksums), len(other.checksums))
        # No row is written in both. ABSENT is below every checksum, so the maximum is the checksum of a written row.
        return TableRows(self.table, torch.maximum(_pad(self.checksums, count), _pad(other.checksums, count)))

    def over(self, processes: Processes) -> TableRows:
        """Returns the rows of all processes, and writes them into every process's table.

        No two processes may have written the same row.
        """
        if processes.count == 1:
            return self
        count = max(processes.gather(len(self.checksums)))
        is_local = _pad(self.present, count)
        checksums = processes.total(torch.where(is_local, _pad(self.checksums, count), 0))
        is_written = processes.total(is_local.long()) > 0
        for rows in self._blocks(is_written):
            # The sum of a row is exact: float64 holds all dtypes of a table, and only one process has a value other
            # than zero.
            values, local = torch.zeros(len(rows), *self.table.shape, dtype=torch.float64), is_local[rows]
            values[local] = self.table.read(rows[local]).double()
            values = processes.total(values)
            self.table.write(rows[~local], values[~local])
        return TableRows(self.table, torch.where(is_written, checksums, ABSENT))

    def finish(self, count: int) -> Tensor:
        """Returns the first `count` rows of the table (count, *shape), with NaN in rows that are not written."""
        return self.table.finish(_pad(self.present, count))

    def save(self, path: Path) -> None:
        """Makes sure that the rows are on the disk, and writes their checksums to a safetensors file."""
        self.table.flush()
        save_tensors(path, {"checksums": self.checksums}, FORMAT, {})

    def load(self, path: Path) -> TableRows:
        """Reads checksums that `save` wrote for the same table.

        Raises:
            CheckpointError: the file is damaged or is something else, or rows of the table have changed.
        """
        with open_tensors(path, FORMAT, "rows of a table") as file:
            schema = TensorSchema((torch.int64,), ("rows",), ABSENT, MAX_CHECKSUM)
            loaded = TableRows(self.table, file.read({"checksums": schema})["checksums"])
        for rows in loaded._blocks(loaded.present):
            if not torch.equal(_checksums(self.table.read(rows)), loaded.checksums[rows]):
                raise CheckpointError(f"the row file of {path} does not hold the rows that were written")
        return loaded

    def _blocks(self, present: Tensor) -> list[Tensor]:
        """Splits the numbers of the present rows into blocks of limited size."""
        rows = present.nonzero().flatten()
        if not len(rows):
            return []
        return list(torch.split(rows, max(1, NUMBERS // max(1, self.table.shape.numel()))))

    def __getstate__(self) -> _PickledRows:
        """Returns the rows themselves, since another process has no access to the table."""
        rows = self.present.nonzero().flatten()
        return {
            "checksums": self.checksums,
            "shape": self.table.shape,
            "dtype": self.table.dtype,
            "values": self.table.read(rows),
        }

    def __setstate__(self, state: _PickledRows) -> None:
        self.table, self.checksums = MemoryTable(state["shape"], state["dtype"]), state["checksums"]
        self.table.write(self.present.nonzero().flatten(), state["values"])


def _checksums(values: Tensor) -> Tensor:
    """Returns the (n,) int64 CRC-32 of values (n, ...)."""
    return torch.tensor([zlib.crc32(value.tobytes()) for value in values.contiguous().numpy()], dtype=torch.int64)


def _pad(values: Tensor, count: int) -> Tensor:
    """Extends `present` or `checksums` to `count` rows. The new rows count as not written."""
    padded = torch.full((count,), False if values.dtype == torch.bool else ABSENT, dtype=values.dtype)
    padded[: len(values)] = values
    return padded
