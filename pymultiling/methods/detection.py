"""Detection: each language's neurons, and the statistics that they were selected from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pymultiling.data.corpora import CorpusReport
from pymultiling.methods.detection_files import read_detection_files, write_detection_files
from pymultiling.neurons.importance_statistics import NeuronStatistics
from pymultiling.neurons.sets import NeuronSet
from pymultiling.runtime.short_repr import short_repr

if TYPE_CHECKING:
    import pandas

    from pymultiling.neurons.selection import Threshold, TopK, TopMean


@dataclass(frozen=True)
class Detection:
    """The result of `detect`.

    Attributes:
        neurons: {language: NeuronSet}, the neurons that were selected for the language.
        statistics: {language: NeuronStatistics}. `select` applies another rule to them without measuring again.
        corpora: {language: CorpusReport}, how many texts were read, left out or cut.
    """

    neurons: dict[str, NeuronSet]
    statistics: dict[str, NeuronStatistics]
    corpora: dict[str, CorpusReport] = field(default_factory=dict)

    def __repr__(self) -> str:
        return short_repr(self)

    def select(self, rule: TopK | TopMean | Threshold) -> Detection:
        """Selects other neurons from the same statistics, without measuring again.

        Args:
            rule: `TopK` of the fractions that the statistics count (see `NeuronStatistics.top`) or of those that were
                measured, with any `share`; or `TopMean` or `Threshold`.

        Returns:
            A detection with the same statistics and corpora.

        Raises:
            ValueError: the statistics do not count what the rule needs.
        """
        neurons = {language: rule.select(statistics) for language, statistics in self.statistics.items()}
        return replace(self, neurons=neurons)

    def specific(self, at_most: int = 1, minus: Iterable[str] = ()) -> dict[str, NeuronSet]:
        """Returns the neurons that were selected for a language and for few others.

        Args:
            at_most: the largest number of languages that a neuron may be selected for, the language itself included.
            minus: languages whose neurons are removed from the sets of all other languages, for example ("en",).

        Returns:
            {language: NeuronSet}, for all languages of the detection.

        Raises:
            ValueError: `minus` names a language that is not in the detection.
        """
        minus = set(minus)
        for language in minus - self.neurons.keys():
            raise ValueError(f"the detection has no language {language!r}: give some of {', '.join(self.neurons)}")
        sites = next(iter(self.neurons.values())).sites
        counts = {
            site: torch.stack([neurons.sites[site] for neurons in self.neurons.values()]).sum(0) for site in sites
        }
        shared_by_few = NeuronSet({site: count <= at_most for site, count in counts.items()})
        specific = {}
        for language, neurons in self.neurons.items():
            specific[language] = neurons & shared_by_few
            for removed in minus - {language}:
                specific[language] -= self.neurons[removed]
        return specific

    def report(self) -> pandas.DataFrame:
        """Counts the selected neurons by language, site and layer.

        Returns:
            DataFrame with a row for each language, site and layer. Columns: language, site, layer, selected (number of
            selected neurons) and specific (number of those that are selected for no other language).
        """
        import pandas

        specific = self.specific()
        rows = [
            (language, site, layer, selected_count, specific_count)
            for language, neurons in self.neurons.items()
            for site in neurons.sites
            for layer, (selected_count, specific_count) in enumerate(
                zip(neurons.count("layer")[site], specific[language].count("layer")[site])
            )
        ]
        return pandas.DataFrame(rows, columns=["language", "site", "layer", "selected", "specific"])

    def save(self, folder: str | Path, model: str | None = None) -> None:
        """Writes the detection to a folder, as the command `detect` does, without its plots and run.json.

        The folders neurons, specific and statistics have a .safetensors file for each language. The tables are
        report.csv, overlap.csv, jaccard.csv, and texts.csv with `corpora`.

        Args:
            folder: a new or an empty folder. It is created.
            model: the model's name, for the metadata of the sets; None: no name is stored.

        Raises:
            CheckpointError: the folder is not empty.
            OSError: a file cannot be written.
        """
        sets = {"neurons": self.neurons, "specific": self.specific()}
        write_detection_files(Path(folder), sets, self.statistics, self.corpora, self.report(), model)

    @classmethod
    def load(cls, folder: str | Path) -> Detection:
        """Reads a folder that `save` or the command `detect` or `select` wrote.

        Args:
            folder: the folder, with the folders neurons and statistics.

        Returns:
            The detection, with the statistics on the CPU. `corpora` is empty for results of earlier versions.

        Raises:
            CheckpointError: a file is missing or damaged, or the files are not those of one detection.
        """
        return cls(*read_detection_files(Path(folder)))
