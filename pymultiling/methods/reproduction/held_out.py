"""Perplexities of held-out texts with sets of neurons off, text by text, and how certain their changes are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor

from pymultiling.data.added_tokens import added_tokens, encode_alone
from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.errors import NON_FINITE_ADVICE, CorpusError, NonFiniteActivations
from pymultiling.mathematics.bootstrap import resampling_weights
from pymultiling.methods.random_sets import add_random_sets, draws_by_set
from pymultiling.methods.reproduction.measured import sets_digest
from pymultiling.methods.reproduction.plan import Setup, Stream, Tables, TimeLimit, interval_ends, measure_evenly
from pymultiling.models.positions import position_limit
from pymultiling.neurons.sets import NeuronSet
from pymultiling.tasks.likelihood import log_likelihoods
from pymultiling.tasks.shared_batches import prepend_none

if TYPE_CHECKING:
    import pandas

HELDOUT = 400  # the most texts of a language
MAX_LENGTH = 512  # tokens of a text
DRAWS = 3  # random sets for each set


def measure_perplexities(
    setup: Setup,
    heldout: Mapping[str, Path],
    specific: Mapping[str, NeuronSet],
    limit: TimeLimit,
    tables: Tables,
    kinds: Mapping[str, NeuronSet] | None = None,
) -> pandas.DataFrame:
    """Measures held-out texts with each language's neurons off, and with as many random ones off.

    Args:
        setup: the model, and where the values are kept.
        heldout: {language: file}.
        specific: {language: its neurons}.
        limit: the time that it may take; one text of each language is measured in any case.
        tables: gets the rows of `intervals` and `samples`.
        kinds: {name: neurons of no single language}, such as all specific ones; None: none.

    Returns:
        Perplexities, as `ablation_matrix` returns them.

    Raises:
        CorpusError: texts cannot be read, or have no token to predict.
        NonFiniteActivations: as `ablation_matrix`.
    """
    import pandas

    kinds = kinds or {}
    sets = prepend_none(setup.model, add_random_sets({**specific, **kinds}, DRAWS, 0))
    digest = sets_digest(sets.values())
    streams: dict[str, Stream] = {}
    for language, file in heldout.items():
        documents = _documents(setup, file, language)

        streams[language] = Stream(
            f"perplexity.{language}.{digest}", len(documents), _measure(setup, documents, sets, language)
        )
    measure_evenly("perplexity", list(streams.values()), setup.measured, limit, at_least=1, progress=setup.progress)
    logs: dict[str, Tensor] = {}  # {language: (resamples + 1, sets) mean log-likelihood}; row 0 has all texts
    for number, (language, stream) in enumerate(streams.items()):
        values = setup.measured.values(stream.name)
        tables.samples.append(("perplexity, texts", language, len(values), stream.count))
        weights = torch.cat([torch.ones(1, len(values)), resampling_weights(len(values), seed=number)])
        sums = weights.double() @ values
        logs[language] = sums[:, 1:] / sums[:, :1]
    names, draws = list(sets), draws_by_set(sets)
    for name in specific:
        own = logs[name][:, :1] - logs[name]
        others = [(logs[other][:, 0] - logs[other][:, names.index(name)]) for other in specific if other != name]
        count = len(setup.measured.values(streams[name].name))
        drawn = {of: own[:, [names.index(draw) for draw in draws[of]]].mean(1) for of in (name, *kinds)}
        rows = {
            "own neurons off": own[:, names.index(name)],
            "own neurons off, other languages": torch.stack(others).mean(0),
            "random neurons off": drawn[name],
        }
        for kind in kinds:
            rows |= {f"{kind} neurons off": own[:, names.index(kind)], f"random as {kind} off": drawn[kind]}
        for row, values in rows.items():
            low, high = interval_ends(values[1:], count)
            tables.intervals.append(("change of log-perplexity", row, name, values[0].item(), low, high, count))
    return pandas.DataFrame({name: numpy.exp(-values[0].numpy()) for name, values in logs.items()}, index=names)


def _measure(
    setup: Setup, documents: Sequence[tuple[list[int], int]], sets: Mapping[str, NeuronSet | None], language: str
) -> Callable[[int, int], Tensor]:
    """Returns what measures documents: (start, stop) -> number of predicted tokens, log-likelihood under each set."""

    def measure(start: int, stop: int) -> Tensor:
        tokens, starts = zip(*documents[start:stop])
        values = log_likelihoods(
            setup.model, tokens, list(sets.values()), starts=starts, batch_tokens=setup.batch_tokens
        )
        if not values.isfinite().all():
            raise NonFiniteActivations(f"language {language!r}: the loss is NaN or infinite: {NON_FINITE_ADVICE}")
        predicted = torch.tensor([len(ids) - first for ids, first in documents[start:stop]])
        return torch.cat([predicted[:, None].double(), values], 1)

    return measure


def _documents(setup: Setup, file: Path, language: str) -> list[tuple[list[int], int]]:
    """Returns the tokens of the first held-out texts, and the index of the first token that counts."""
    before = added_tokens(setup.tokenizer).before
    start, length = max(1, len(before)), min(MAX_LENGTH, position_limit(setup.model) or MAX_LENGTH)
    documents = []
    for text in read_texts(str(file), CorpusReport()):
        tokens = [*before, *encode_alone(setup.tokenizer, text)][:length]
        if len(tokens) > start:
            documents.append((tokens, start))
        if len(documents) == HELDOUT:
            break
    if not documents:
        raise CorpusError(f"{file}: {language} has no text of at least two tokens")
    return documents
