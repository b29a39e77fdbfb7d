"""The rows of a table that a pass has written: statistics that are too large to be added up in memory."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pymultiling.errors import CheckpointError
from pymultiling.runtime.processes import Processes
from pymultiling.runtime.row_tables import MemoryTable, RowTable
from pymultiling.runtime.storage import load_tensors, save_tensors

FORMAT = "pymultiling.rows/1"
NUMBERS = 2**24  # that are exchanged with other processes at a time


class TableRows:
    """Which rows of a table are written. The sum of two is the rows of both, in the table of the first.

    Attributes:
        table: holds the rows.
        present: (n,) bool, whether row 0 ... n - 1 is written; later ones are not.
    """

    def __init__(self, table: RowTable, present: Tensor | None = None):
        self.table = table
        self.present = torch.zeros(0, dtype=torch.bool) if present is None else present

    @classmethod
    def written(cls, table: RowTable, rows: Tensor, values: Tensor) -> TableRows:
        """Writes values (n, *shape) into rows (n,)."""
        table.write(rows, values)
        present = torch.zeros(int(rows.max()) + 1, dtype=torch.bool)
        present[rows] = True
        return cls(table, present)

    def of(self, count: int) -> Tensor:
        """(count,) bool: which of so many rows are written."""
        present = torch.zeros(count, dtype=torch.bool)
        present[: len(self.present)] = self.present
        return present

    def __add__(self, other: TableRows) -> TableRows:
        if other.table is not self.table:  # one of them came from another process
            rows = other.present.nonzero().flatten()
            self.table.write(rows, other.table.read(rows))
        count = max(len(self.present), len(other.present))
        return TableRows(self.table, self.of(count) | other.of(count))

    def over(self, processes: Processes) -> TableRows:
        """Those of all processes together, which are in every process's table after that; no two processes have the same row."""
        if processes.count == 1:
            return self
        count = max(processes.gathered(len(self.present)))
        own = self.of(count)
        everyone = processes.total(own.long()) > 0
        if not everyone.any():
            return TableRows(self.table, everyone)
        shape = self.table.shape
        for rows in everyone.nonzero().flatten().split(max(1, NUMBERS // shape.numel())):
            # In float64, which every dtype of a table fits in; what is added to a row is zero but in one process.
            values, here = torch.zeros(len(rows), *shape, dtype=torch.float64), own[rows]
            values[here] = self.table.read(rows[here]).double()
            values = processes.total(values)
            self.table.write(rows[~here], values[~here])
        return TableRows(self.table, everyone)

    def save(self, path: Path) -> None:
        """Makes sure that the rows are on the disk, then writes which they are to a safetensors file."""
        self.table.flush()
        save_tensors(path, {"present": self.present}, FORMAT, {})

    def load(self, path: Path) -> TableRows:
        """Reads what `save` wrote, of the same table; CheckpointError where the file is damaged or something else."""
        tensors, _ = load_tensors(path, FORMAT, "rows of a table")
        if tensors.keys() != {"present"}:
            raise CheckpointError(f"{path} does not say which rows are written: it is damaged")
        return TableRows(self.table, tensors["present"])

    def __getstate__(self) -> dict[str, object]:
        """For another process, which has no access to the table: the rows themselves."""
        rows = self.present.nonzero().flatten()
        return {"shape": self.table.shape, "dtype": self.table.dtype, "present": self.present, "values": self.table.read(rows)}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.table, self.present = MemoryTable(state["shape"], state["dtype"]), state["present"]
        if self.present.any():
            self.table.write(self.present.nonzero().flatten(), state["values"])
