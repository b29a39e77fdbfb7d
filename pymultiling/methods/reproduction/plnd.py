"""The tables of arXiv 2402.18815: language neurons (PLND), what happens without them, and the parts of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from pymultiling.methods.detection import Detection
from pymultiling.methods.mwork_search import MWorkSearch
from pymultiling.methods.reproduction.detection_rounds import RULE, detect_in_rounds
from pymultiling.methods.reproduction.held_out import DRAWS, measure_perplexities
from pymultiling.methods.reproduction.parts_of_tasks import find_parts, measure_task
from pymultiling.methods.reproduction.plan import Notes, Setup, Tables, TimeLimit, model_note, span
from pymultiling.methods.reproduction.rounds import PACK, ROUND, ROUNDS
from pymultiling.methods.reproduction.text_inputs import Inputs
from pymultiling.neurons.importance_statistics import NeuronStatistics

if TYPE_CHECKING:
    import pandas

# Of the time: the detection takes at most 0.3, the perplexities 0.25 of the rest, the search 0.2 of what then is left.
DETECTION_PART, PERPLEXITY_PART, SEARCH_PART, TASKS_PART = 0.3, 0.25, 0.2, 0.95


@dataclass(frozen=True)
class PlndTables:
    """The result of `reproduce_plnd`.

    Attributes:
        detection: the neurons of each language.
        rounds: rounds of the detection, for `Measured.copy_to`.
        perplexities: as `ablation_matrix` returns them.
        search: the parts of the model.
        table1: a row for each task, language and set of neurons: original, random, own.
        mwork: the table of `mwork`, all tasks.
        intervals: a value of the tables with the ends of its bootstrap interval in each row.
        samples: how many items each value stands on.
        notes: what differs from the paper.
    """

    detection: Detection
    rounds: int
    perplexities: pandas.DataFrame
    search: MWorkSearch
    table1: pandas.DataFrame
    mwork: pandas.DataFrame
    intervals: pandas.DataFrame
    samples: pandas.DataFrame
    notes: Notes


def reproduce_plnd(setup: Setup, inputs: Inputs, limit: TimeLimit, *, seeds: int) -> PlndTables:
    """Measures the paper's tables, and goes on from what is measured already.

    Source: arXiv 2402.18815, sections 2 and 3; tables 1 to 5.

    Args:
        setup: the model, and where the values are kept.
        inputs: what `read_inputs` returned. Its notes get what is other than in the paper.
        limit: the time that may be taken. Of the detection, the perplexities and the search at least one item of each
            language is measured in any case.
        seeds: number of random sets for each setting of tables 1 to 5.

    Returns:
        The tables.

    Raises:
        CorpusError: texts cannot be read, or are too few.
        UnsupportedModel: as `detect`.
        NonFiniteActivations: as `detect`.
    """
    rounds, statistics = detect_in_rounds(setup, inputs.texts, limit.part(DETECTION_PART))
    neurons = {language: RULE.select(of_language) for language, of_language in statistics.items()}
    detection = Detection(neurons, statistics)
    specific = detection.specific()
    tables = Tables()
    for language, of_language in statistics.items():
        tables.samples.append(("detection, documents", language, of_language.documents, ROUND * ROUNDS))
    perplexities = measure_perplexities(setup, inputs.heldout, specific, limit.part(PERPLEXITY_PART), tables)
    search = find_parts(setup, inputs, specific, limit.part(SEARCH_PART), tables)
    for number, task in enumerate(inputs.tasks):
        part = limit.part(TASKS_PART / (len(inputs.tasks) - number))
        reason = measure_task(setup, task, inputs.english, specific, search, range(seeds), part, tables)
        if reason is not None:
            inputs.notes.left_out.append(f"{task.name}: {reason}; a longer run measures it")
    _add_notes(inputs, setup.model, statistics)
    return PlndTables(
        detection,
        rounds,
        perplexities,
        search,
        tables.frame(tables.table1, ("task", "metric", "language", "neurons", "score", "low", "high", "items")),
        tables.frame(tables.mwork),
        tables.frame(tables.intervals, ("table", "row", "language", "value", "low", "high", "items")),
        tables.frame(tables.samples, ("measured", "language", "items", "of")),
        inputs.notes,
    )


def _add_notes(inputs: Inputs, model: nn.Module, statistics: Mapping[str, NeuronStatistics]) -> None:
    sizes = span([of_language.documents for of_language in statistics.values()])
    detection = f"detection: {sizes} documents of {PACK} tokens of each language, joined from the texts of the data "
    selection = f"selection: the top {RULE.ffn:.0%} of each layer and site in {RULE.share:.0%} of the documents; "
    inputs.notes.departures[:0] = [
        model_note(model, "others, such as Vicuna"),
        f"languages: {', '.join(inputs.texts)}",
        detection + "folder; the paper has a corpus of its own",
        selection + "the paper has a threshold (eq. 2), its code a number of neurons in every document",
        "importance: eq. 1 and 9 to 11, exactly; the paper's code ranks by other sums (docs/papers/plnd.md)",
        "prompts: those of pymultiling.tasks, not the paper's",
        f"perplexity: held-out texts of the data folder, with {DRAWS} random sets for each set",
    ]
    inputs.notes.left_out += [
        "training of a language's neurons (section 3.3) needs training: see the command tune",
        "the languages that layers decode to (figure 1): see the command lens",
    ]
    inputs.notes.published.append(
        (
            "improvement by training a language's neurons on 400 documents, all tasks (abstract)",
            "3.6% (high-resource languages), 2.3% (low-resource languages)",
            "not measured: needs training",
        )
    )
