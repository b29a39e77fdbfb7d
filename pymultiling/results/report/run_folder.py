"""A folder of results as the sections of the report read it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymultiling.errors import CheckpointError
from pymultiling.results.record_schema import read_run_record
from pymultiling.results.run import RECORD_FILE

if TYPE_CHECKING:
    import pandas

    from pymultiling.neurons.sets import NeuronSet


@dataclass(frozen=True)
class Results:
    """The results of one run.

    Attributes:
        folder: where they are.
        place: where readers of the report find them.
        name: what the report calls them.
        record: run.json.
    """

    folder: Path
    place: Path
    name: str
    record: dict[str, Any]

    @property
    def command(self) -> str:
        """The command that wrote them; "" if the record does not say it."""
        return self.record.get("command") or ""

    def has(self, file: str) -> bool:
        """Returns whether there is such a file or folder."""
        return (self.folder / file).exists()

    def table(self, file: str, texts: Iterable[str] = ()) -> pandas.DataFrame:
        """Reads a CSV file.

        Args:
            file: its name.
            texts: columns that are texts, also where they look like numbers; a code such as "nan" stays one too.

        Raises:
            CheckpointError: it is not a table with these columns.
        """
        import pandas

        try:
            table = pandas.read_csv(
                self.folder / file, dtype=dict.fromkeys(texts, str), keep_default_na=False, na_values=[""]
            )
        except ValueError as error:
            raise CheckpointError(f"{self.folder / file} is damaged: {error}; run the command again") from None
        if missing := [name for name in texts if name not in table]:
            raise CheckpointError(
                f"{self.folder / file} is damaged: it has no column {missing[0]}; run the command again"
            )
        return table

    def sets(self, subfolder: str) -> dict[str, NeuronSet]:
        """Reads the sets of neurons of a subfolder, in the order of the languages in the record, then of names."""
        from pymultiling.neurons.set_files import load_sets

        sets = load_sets(self.folder / subfolder)
        order = next((self.record[key] for key in ("texts", "corpora", "tokens") if self.record.get(key)), ())
        return {name: sets[name] for name in dict.fromkeys([*order, *sets]) if name in sets}


def read_results(folder: Path, name: str | None = None, place: Path | None = None) -> Results:
    """Reads the record of a results folder.

    Args:
        folder: the folder.
        name: what the report calls the results; None: the name of the folder.
        place: where the folder will be when the report is read; None: where it is.

    Raises:
        CheckpointError: the folder has no run.json, or one that is damaged.
    """
    if not (folder / RECORD_FILE).is_file():
        raise CheckpointError(f"{folder} has no {RECORD_FILE}: give a folder with results of a pymultiling command")
    place = (place or folder).resolve()
    return Results(folder, place, name or place.name, read_run_record(folder / RECORD_FILE))
