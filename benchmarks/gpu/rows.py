"""The rows of tables. They are appended to a file immediately, so that they survive a later crash."""

import json
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pymultiling.errors import BackendUnavailable


class SkipRow(Exception):
    """Raised to skip a row. The message says why the row is not measured."""


class Rows:
    """Measures rows of tables and appends them to a file."""

    def __init__(self, file: Path):
        self._file = file

    def add(self, table: str, row: dict[str, object], measure: Callable[[], dict[str, object]]) -> dict[str, object]:
        """Appends a row to a table, prints it and returns it.

        Args:
            table: name of the table.
            row: the columns that identify the row.
            measure: returns the measured columns. If it raises SkipRow or BackendUnavailable, the row has the column
                "skipped" with the reason instead. If it raises any other error, the column is "failed".
        """
        try:
            row = {**row, **measure()}
        except (SkipRow, BackendUnavailable) as reason:
            row = {**row, "skipped": str(reason)}
        except Exception as error:  # noqa: BLE001, a failed measurement must not stop the others
            traceback.print_exc()
            row = {**row, "failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        with self._file.open("a") as file:
            # One write, so that other processes can append too. The first newline ends a row of which a killed process
            # wrote only a part.
            file.write("\n" + json.dumps({"table": table, **row}) + "\n")
        print(table, *(value for value in row.values() if not isinstance(value, dict)), sep=" | ", flush=True)
        return row

    def read(self, table: str) -> list[dict[str, object]]:
        """Returns the rows of a table, also those that other processes have appended."""
        return [row for row in read_rows(self._file) if row["table"] == table]


def read_rows(file: Path) -> list[dict[str, object]]:
    """Returns the rows of a file, without a row that is not complete. The list is empty if the file does not exist."""
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        with suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows
