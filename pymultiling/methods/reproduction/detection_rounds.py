"""A detection in rounds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pymultiling.methods.plnd import detect
from pymultiling.methods.reproduction.measured import Kind
from pymultiling.methods.reproduction.plan import Setup, TimeLimit
from pymultiling.methods.reproduction.rounds import PACK, measure_texts
from pymultiling.neurons.importance_statistics import NeuronStatistics
from pymultiling.neurons.selection import TopK

RULE = TopK()
DETECTION = Kind("detection", "statistics", NeuronStatistics.load)


def detect_in_rounds(
    setup: Setup, texts: Mapping[str, Path], limit: TimeLimit
) -> tuple[int, dict[str, NeuronStatistics]]:
    """Measures importance in rounds: in each the same number of documents of every language.

    Args:
        setup: the model, and where the statistics are kept.
        texts: {language: file}.
        limit: the time that it may take; one round is measured in any case.

    Returns:
        The number of rounds that are done, and {language: statistics}.

    Raises:
        CorpusError: texts cannot be read, or fill no document.
        UnsupportedModel: as `detect`.
        NonFiniteActivations: as `detect`.
    """

    def measure(corpora: Mapping[str, list[str]], is_first: bool) -> Mapping[str, NeuronStatistics]:
        return detect(
            setup.model,
            setup.tokenizer,
            corpora,
            select=RULE,
            batch_tokens=setup.batch_tokens,
            pack=PACK,
            workers=0,
            progress=False,
            verify=is_first,
        ).statistics

    return measure_texts(setup, texts, DETECTION, limit, measure)
