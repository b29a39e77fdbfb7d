"""The folder of a detection: sets, statistics, tables and the reports of the texts."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.data.corpora import CorpusReport
from pymultiling.errors import CheckpointError
from pymultiling.methods.overlap import overlap
from pymultiling.neurons.importance_statistics import NeuronStatistics
from pymultiling.neurons.set_files import files_by_name, load_sets
from pymultiling.neurons.sets import NeuronSet
from pymultiling.runtime.storage import write_atomically

if TYPE_CHECKING:
    import pandas

TEXTS_FILE = "texts.csv"
COLUMNS = ["language", *(field.name for field in fields(CorpusReport))]


def write_detection_files(
    folder: Path,
    sets: Mapping[str, Mapping[str, NeuronSet]],
    statistics: Mapping[str, NeuronStatistics],
    corpora: Mapping[str, CorpusReport],
    report: pandas.DataFrame,
    model: str | None,
) -> None:
    """Writes the files that `Detection.save` lists.

    Args:
        folder: a new or an empty folder.
        sets: {subfolder: {language: set}}, with the subfolders "neurons" and "specific".
        statistics: {language: statistics}.
        corpora: {language: report of its texts}; a language may be missing.
        report: the table report.csv.
        model: the model's name, for the metadata of the sets; None: it is unknown.

    Raises:
        CheckpointError: the folder has files.
    """
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty: give a new folder")
    facts = {} if model is None else {"model": model}
    for subfolder, sets_by_language in sets.items():
        (folder / subfolder).mkdir(parents=True)
        for language, neurons in sets_by_language.items():
            neurons.save(folder / subfolder / f"{language}.safetensors", language=language, **facts)
    (folder / "statistics").mkdir()
    for language, of_language in statistics.items():
        of_language.save(folder / "statistics" / f"{language}.safetensors")
    shared = overlap(sets["neurons"])
    shared.counts.to_csv(folder / "overlap.csv", index_label="language")
    shared.jaccard.to_csv(folder / "jaccard.csv", index_label="language")
    report.to_csv(folder / "report.csv", index=False)
    with write_atomically(folder / TEXTS_FILE) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for language in sets["neurons"]:
            counts = asdict(corpora[language]) if language in corpora else {}
            writer.writerow({"language": language, **counts})


def read_detection_files(
    folder: Path,
) -> tuple[dict[str, NeuronSet], dict[str, NeuronStatistics], dict[str, CorpusReport]]:
    """Reads the sets, the statistics and the reports of a folder, in the order of the languages in texts.csv.

    Raises:
        CheckpointError: a file is missing or damaged, or the files are not those of one detection.
    """
    neurons = load_sets(folder / "neurons")
    statistics = {name: NeuronStatistics.load(file) for name, file in files_by_name(folder / "statistics").items()}
    if neurons.keys() != statistics.keys():
        other = next(iter(neurons.keys() ^ statistics.keys()))
        raise CheckpointError(
            f"{folder} has not the results of one detection: only one of neurons and statistics has "
            f"{other}.safetensors; give a folder that detect wrote"
        )
    reports = read_reports(folder)
    order = [*(name for name in reports if name in neurons), *(name for name in neurons if name not in reports)]
    return (
        {name: neurons[name] for name in order},
        {name: statistics[name] for name in order},
        {name: report for name, report in reports.items() if name in neurons and report is not None},
    )


def read_reports(folder: Path) -> dict[str, CorpusReport | None]:
    """Reads texts.csv of a folder; nothing if there is none, as in results of earlier versions.

    Returns:
        {language: report, or None if it is unknown}, in the order of the detection.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / TEXTS_FILE
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"its columns must be {', '.join(COLUMNS)}")
        return {row.pop("language"): _report(row) for row in rows}
    except (csv.Error, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; create it again") from None


def _report(row: Mapping[str, str | None]) -> CorpusReport | None:
    counts = list(row.values())
    if all(count == "" for count in counts):
        return None
    if not all(isinstance(count, str) and count.isascii() and count.isdecimal() for count in counts):
        raise ValueError("a count must be a whole number of at least 0")
    return CorpusReport(**{name: int(str(count)) for name, count in row.items()})
