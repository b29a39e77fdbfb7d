"""Activation counts of texts in rounds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pymultiling.methods.activations import activations
from pymultiling.methods.reproduction.measured import Kind
from pymultiling.methods.reproduction.plan import Setup, TimeLimit
from pymultiling.methods.reproduction.rounds import PACK, measure_texts
from pymultiling.neurons.activation_statistics import ActivationStatistics

COUNTING = Kind("counting", "counts", ActivationStatistics.load)


def count_in_rounds(
    setup: Setup, texts: Mapping[str, Path], limit: TimeLimit
) -> tuple[int, dict[str, ActivationStatistics]]:
    """Counts activations in rounds: in each the same number of documents of every language.

    Args:
        setup: the model, and where the counts are kept.
        texts: {language: file}.
        limit: the time that it may take; one round is counted in any case.

    Returns:
        The number of rounds that are done, and {language: counts}.

    Raises:
        CorpusError: texts cannot be read, or have no token.
        UnsupportedModel: as `activations`.
        NonFiniteActivations: as `activations`.
    """

    def measure(corpora: Mapping[str, list[str]], is_first: bool) -> Mapping[str, ActivationStatistics]:
        return activations(
            setup.model,
            setup.tokenizer,
            corpora,
            batch_tokens=setup.batch_tokens,
            pack=PACK,
            workers=0,
            progress=False,
            verify=is_first,
        )

    return measure_texts(setup, texts, COUNTING, limit, measure)
