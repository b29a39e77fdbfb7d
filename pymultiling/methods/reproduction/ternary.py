"""The tables of arXiv 2505.21505 before alignment: specific, related and general neurons, and what they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from pymultiling.methods.random_sets import add_random_sets, draws_by_set
from pymultiling.methods.reproduction.counting_rounds import count_in_rounds
from pymultiling.methods.reproduction.held_out import DRAWS, measure_perplexities
from pymultiling.methods.reproduction.plan import Notes, Setup, Tables, TimeLimit, measure_evenly, model_note, span
from pymultiling.methods.reproduction.rounds import PACK, ROUND, ROUNDS
from pymultiling.methods.reproduction.task_scores import score_rows, task_stream
from pymultiling.methods.reproduction.text_inputs import Inputs
from pymultiling.methods.ternary import Ternary, sets_by_kind, ternary
from pymultiling.neurons.activation_statistics import ActivationStatistics
from pymultiling.neurons.sets import NeuronSet
from pymultiling.tasks import Task

if TYPE_CHECKING:
    import pandas

# Of the time: counting takes at most 0.2, the perplexities 0.4 of the rest.
COUNTING_PART, PERPLEXITY_PART, TASKS_PART = 0.2, 0.4, 0.95
TOP, BAR = 0.01, 0.95  # of the published code
PUBLISHED_LAM = "0.109375"  # for the counts of Mistral-7B: docs/papers/ternary.md


@dataclass(frozen=True)
class TernaryTables:
    """The result of `reproduce_ternary`.

    Attributes:
        counts: {language: activation counts}.
        rounds: rounds of the counts, for `Measured.copy_to`.
        kinds: the classified neurons.
        perplexities: as `ablation_matrix` returns them: each language's neurons off, and each kind.
        tasks: a row for each task, language and set of neurons: none, each kind, and as many random ones.
        intervals: changes of log-perplexity with the ends of their bootstrap intervals.
        samples: how many items each value stands on.
        notes: what differs from the paper.
    """

    counts: dict[str, ActivationStatistics]
    rounds: int
    kinds: Ternary
    perplexities: pandas.DataFrame
    tasks: pandas.DataFrame
    intervals: pandas.DataFrame
    samples: pandas.DataFrame
    notes: Notes


def reproduce_ternary(setup: Setup, inputs: Inputs, limit: TimeLimit, *, seeds: int) -> TernaryTables:
    """Counts activations, classifies neurons, switches them off, and goes on from what is measured already.

    Source: arXiv 2505.21505, eq. 5 and 6.

    Args:
        setup: the model, and where the values are kept.
        inputs: what `read_inputs` returned. Its notes get what is other than in the paper.
        limit: the time that may be taken. Of the counts and the perplexities at least one item of each language is
            measured in any case.
        seeds: number of random sets for each kind in the tables of tasks.

    Returns:
        The tables.

    Raises:
        CorpusError: texts cannot be read, or are too few.
        UnsupportedModel: as `activations`.
        NonFiniteActivations: as `activations`.
    """
    tables = Tables()
    rounds, counts = count_in_rounds(setup, inputs.texts, limit.part(COUNTING_PART))
    for language, of_language in counts.items():
        documents = -(-of_language.tokens // PACK)
        tables.samples.append(("counting, documents", language, documents, ROUND * ROUNDS))
    found = _classify(counts, inputs.notes)
    kinds = {f"all {kind}": neurons for kind, neurons in sets_by_kind(found).items() if len(neurons)}
    perplexities = measure_perplexities(
        setup, inputs.heldout, found.neurons, limit.part(PERPLEXITY_PART), tables, kinds
    )
    for number, task in enumerate(inputs.tasks):
        part = limit.part(TASKS_PART / (len(inputs.tasks) - number))
        reason = _measure_task(setup, task, kinds, seeds, part, tables)
        if reason is not None:
            inputs.notes.left_out.append(f"{task.name}: {reason}; a longer run measures it")
    _add_notes(inputs, setup.model, counts, found)
    return TernaryTables(
        counts,
        rounds,
        found,
        perplexities,
        tables.frame(tables.table1, ("task", "metric", "language", "neurons", "score", "low", "high", "items")),
        tables.frame(tables.intervals, ("table", "row", "language", "value", "low", "high", "items")),
        tables.frame(tables.samples, ("measured", "language", "items", "of")),
        inputs.notes,
    )


def _classify(counts: Mapping[str, ActivationStatistics], notes: Notes) -> Ternary:
    """Classifies with the largest lambda that selects no general neuron, as the published code does."""
    try:
        return ternary(counts, top=TOP, bar=BAR)
    except ValueError:  # even lambda 0 selects general neurons
        found = ternary(counts, top=TOP, bar=BAR, lam=0.0)
        notes.departures.append(
            f"lambda: 0, since even with it {len(found.general):,} general neurons are selected; the paper's code "
            "takes the largest with which there is none"
        )
        return found


def _measure_task(
    setup: Setup, task: Task, kinds: Mapping[str, NeuronSet], seeds: int, limit: TimeLimit, tables: Tables
) -> str | None:
    """Measures a task in all languages with each kind off, and as many random neurons.

    Returns:
        None, or why not one item was measured.
    """
    sets = add_random_sets(kinds, seeds, 0)
    names, draws = list(sets), draws_by_set(sets)
    most = min(map(len, task.items.values()))
    name = f"kinds.{task.name}.{task.metric.replace(' ', '-')}"
    streams = {language: task_stream(setup, task, language, list(sets.values()), name, most) for language in task.items}
    reason = measure_evenly(task.name, list(streams.values()), setup.measured, limit, progress=setup.progress)
    items = min(setup.measured.count(stream.name) for stream in streams.values())
    if items == 0:
        return reason
    for language, stream in streams.items():
        values = setup.measured.values(stream.name)[:items]
        columns = {"none": values[:, :1]}
        for kind in kinds:
            drawn = torch.tensor([1 + names.index(draw) for draw in draws[kind]])
            columns |= {kind: values[:, [1 + names.index(kind)]], f"random as {kind}": values[:, drawn]}
        tables.table1 += score_rows(task, language, columns)
        tables.samples.append((task.name, language, items, most))
    return None


def _add_notes(inputs: Inputs, model: nn.Module, counts: Mapping[str, ActivationStatistics], found: Ternary) -> None:
    sizes = span([of_language.tokens for of_language in counts.values()])
    counted = f"counts: {sizes} tokens of each language, all of documents of {PACK} tokens from the data folder; "
    perplexity = f"perplexity: held-out texts of the data folder, with {DRAWS} random sets for each set; "
    inputs.notes.departures[:0] = [
        model_note(model, "others, such as Mistral-7B"),
        f"languages: {', '.join(inputs.texts)}; the paper has the ten of MSVAMP",
        counted + "the paper counts in answers to MGSM",
        perplexity + "the paper's code takes MGSM's prompts, and averages over the true token and the most likely one",
    ]
    if inputs.tasks:
        inputs.notes.departures.append(
            "prompts of tasks: eight worked examples of MGSM in the question's language; the paper's are those of its "
            "trained models"
        )
    inputs.notes.left_out += [
        "alignment (MAPO, DPO) and what it changes: needs training; count and classify --before compare two models",
        "languages that are aligned without being trained (spontaneous alignment): needs the same training",
    ]
    inputs.notes.published.append(
        (
            "lambda for the published counts of Mistral-7B in ten languages",
            PUBLISHED_LAM,
            f"{found.lam:g} in {len(counts)} languages",
        )
    )
