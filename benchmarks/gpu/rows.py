"""The rows of a section: kept in a file as they are measured, so that what was measured survives what breaks later."""

import json
import traceback
from collections.abc import Callable
from pathlib import Path

from pymultiling.errors import BackendUnavailable


class NotHere(Exception):
    """What a row measures cannot be measured here; says why."""


class Rows:
    def __init__(self, file: Path):
        self._file = file

    def add(self, table: str, row: dict, measure: Callable[[], dict]) -> dict:
        """Keeps `row` with what measure() gives; "skipped" where it cannot run here, "failed" where it breaks."""
        try:
            row = {**row, **measure()}
        except (NotHere, BackendUnavailable) as reason:
            row = {**row, "skipped": str(reason)}
        except Exception as error:  # noqa: BLE001, one broken measurement must not cost the others
            traceback.print_exc()
            row = {**row, "failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        with self._file.open("a") as file:
            file.write(json.dumps({"table": table, **row}) + "\n")
        print(table, *(value for value in row.values() if not isinstance(value, dict)), sep=" | ", flush=True)
        return row


def read_rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
