"""The rows of a table that a pass has written: statistics that are too large to be added up in memory."""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
from torch import Tensor

from pymultiling.errors import CheckpointError
from pymultiling.runtime.processes import Processes
from pymultiling.runtime.row_tables import MemoryTable, RowTable
from pymultiling.runtime.storage import load_tensors, save_tensors

FORMAT = "pymultiling.rows/1"
NUMBERS = 2**24  # that are read, or exchanged with other processes, at a time
ABSENT = -1


class TableRows:
    """Which rows of a table are written. The sum of two is the rows of both, in the table of the first.

    Attributes:
        table: holds the rows.
        checksums: (n,) int64, CRC-32 of row 0 ... n - 1, -1 where it is not written; later ones are not.
    """

    def __init__(self, table: RowTable, checksums: Tensor | None = None):
        self.table = table
        self.checksums = torch.zeros(0, dtype=torch.int64) if checksums is None else checksums

    @classmethod
    def write(cls, table: RowTable, rows: Tensor, values: Tensor) -> TableRows:
        """Writes values (n, *shape), in the table's dtype, into rows (n,)."""
        table.write(rows, values)
        checksums = torch.full((int(rows.max()) + 1 if len(rows) else 0,), ABSENT)
        checksums[rows] = _checksums(values)
        return cls(table, checksums)

    @property
    def present(self) -> Tensor:
        """(n,) bool: which rows are written."""
        return self.checksums != ABSENT

    def __add__(self, other: TableRows) -> TableRows:
        if other.table is not self.table:  # one of them came from another process
            rows = other.present.nonzero().flatten()
            self.table.write(rows, other.table.read(rows))
        count = max(len(self.checksums), len(other.checksums))
        return TableRows(self.table, torch.maximum(_padded(self.checksums, count), _padded(other.checksums, count)))

    def over(self, processes: Processes) -> TableRows:
        """Those of all processes together, which are in every process's table after that; no two processes have the same row."""
        if processes.count == 1:
            return self
        count = max(processes.gathered(len(self.checksums)))
        own = _padded(self.present, count)
        checksums = processes.total(torch.where(own, _padded(self.checksums, count), 0))
        everyone = processes.total(own.long()) > 0
        for rows in self._blocks(everyone):
            # In float64, which every dtype of a table fits in; what is added to a row is zero but in one process.
            values, here = torch.zeros(len(rows), *self.table.shape, dtype=torch.float64), own[rows]
            values[here] = self.table.read(rows[here]).double()
            values = processes.total(values)
            self.table.write(rows[~here], values[~here])
        return TableRows(self.table, torch.where(everyone, checksums, ABSENT))

    def finish(self, count: int) -> Tensor:
        """(count, *shape): the table, NaN in rows that are not written."""
        return self.table.finish(_padded(self.present, count))

    def save(self, path: Path) -> None:
        """Makes sure that the rows are on the disk, then writes which they are to a safetensors file."""
        self.table.flush()
        save_tensors(path, {"checksums": self.checksums}, FORMAT, {})

    def load(self, path: Path) -> TableRows:
        """Reads what `save` wrote, of the same table.

        Raises:
            CheckpointError: the file is damaged or something else, or the table has not the rows that it had.
        """
        tensors, _ = load_tensors(path, FORMAT, "rows of a table")
        if tensors.keys() != {"checksums"}:
            raise CheckpointError(f"{path} does not say which rows are written: it is damaged")
        found = TableRows(self.table, tensors["checksums"])
        for rows in found._blocks(found.present):
            if not torch.equal(_checksums(self.table.read(rows)), found.checksums[rows]):
                raise CheckpointError(f"the rows beside {path} are not those that were written")
        return found

    def _blocks(self, present: Tensor) -> list[Tensor]:
        rows = present.nonzero().flatten()
        return list(rows.split(max(1, NUMBERS // max(1, self.table.shape.numel())))) if len(rows) else []

    def __getstate__(self) -> dict[str, object]:
        """For another process, which has no access to the table: the rows themselves."""
        rows = self.present.nonzero().flatten()
        of_table = {"shape": self.table.shape, "dtype": self.table.dtype, "values": self.table.read(rows)}
        return {"checksums": self.checksums, **of_table}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.table, self.checksums = MemoryTable(state["shape"], state["dtype"]), state["checksums"]
        self.table.write(self.present.nonzero().flatten(), state["values"])


def _checksums(values: Tensor) -> Tensor:
    """(n,) int64 of values (n, ...)."""
    return torch.tensor([zlib.crc32(value.tobytes()) for value in values.contiguous().numpy()], dtype=torch.int64)


def _padded(of_rows: Tensor, count: int) -> Tensor:
    """With as many more rows as `count` says, which are not written."""
    padded = torch.full((count,), False if of_rows.dtype == torch.bool else ABSENT, dtype=of_rows.dtype)
    padded[: len(of_rows)] = of_rows
    return padded
