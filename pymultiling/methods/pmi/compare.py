"""Comparison of direct, pivot and parallel input: how well a task is solved, and how many neurons are active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from pymultiling.data.added_tokens import encode_prompt
from pymultiling.errors import CorpusError
from pymultiling.methods.activations import Positions, count_activations
from pymultiling.methods.pmi.chat import tokenise_messages
from pymultiling.methods.pmi.items import ParallelItem, ParallelTask
from pymultiling.methods.pmi.kinds_of_prompts import fitting_items, kinds_of_prompts, languages_shown
from pymultiling.methods.pmi.prompts import PromptForm, prompt
from pymultiling.methods.pmi.records import LABELS
from pymultiling.methods.pmi.scores import Comet, answer_metrics, load_comet, require_sacrebleu
from pymultiling.neurons.activation_statistics import ActivationStatistics
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.runtime.progress import show_progress
from pymultiling.runtime.short_repr import short_repr
from pymultiling.tasks.generation import Answer, generate
from pymultiling.tasks.items import Task

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedTokenizerBase

POSITIONS: tuple[Positions, ...] = ("last", "all", "response")


@dataclass(frozen=True, eq=False)
class Comparison:
    """The result of `compare`.

    Attributes:
        table: a row for each kind of prompt, with the columns prompt ("direct", "pivot", "PMI-1", ...), languages (the
            number of inputs that it shows), tokens (mean number of tokens of a prompt), the metric values in percent if
            answers were generated, proportion (of all FFN neurons, the fraction that is active, as a mean over
            positions and layers), and top_share (of all activations, the fraction in the 1% of neurons that are active
            most often).
        by_layer: a row for each kind of prompt and layer, with the columns prompt, layer and proportion.
        statistics: {prompt: ActivationStatistics}; its `most_active` gives the curve of the highest frequencies.
        answers: {prompt: the answer to each item}; empty if no answers were generated.
        places: the indices of the task's items that were compared, which are the same for every kind of prompt.
        signatures: {metric: sacrebleu's signature}, by which a metric value can be reproduced.
        left_out: the number of items that have a prompt too long for the model's positions.
    """

    table: pandas.DataFrame
    by_layer: pandas.DataFrame
    statistics: dict[str, ActivationStatistics]
    answers: dict[str, list[str]]
    places: list[int]
    signatures: dict[str, str]
    left_out: int

    def __repr__(self) -> str:
        return short_repr(self)

    @property
    def items(self) -> int:
        """The number of items that were compared."""
        return len(self.places)


def compare(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: ParallelTask,
    *,
    source: str,
    others: Sequence[str],
    target: str | None = None,
    pivot: str | None = None,
    positions: Positions = "last",
    answers: bool = True,
    comet: str | None = None,
    template: str | None = None,
    examples: Sequence[tuple[ParallelItem, str]] = (),
    instruction: str = "",
    chat: bool = False,
    names: Mapping[str, str] | None = None,
    batch_tokens: int = 4096,
    progress: bool = True,
) -> Comparison:
    """Runs a task with its input in one language, and in more and more languages at once.

    "direct" shows the source alone, "pivot" its translation alone, and "PMI-k" the source and the first k of the
    others. With k the prompts grow, and the language at their end changes. Consider this when you compare proportions,
    and also try another order of the languages.

    Source: arXiv 2403.09073.

    Args:
        model: a Hugging Face decoder with a language-model head, of a supported family.
        tokenizer: the model's tokenizer.
        task: items with inputs and references, and the metric.
        source: the name of the original input.
        others: the names of the inputs to add, in this order; k goes from 1 to their number.
        target: the code of the answers' language, for translation and other templates that show it.
        pivot: the name of an input that is shown alone for comparison; None: there is no such row.
        positions: where activations are counted: at the "last" token of the prompt, at "all" of its tokens, or at the
            tokens of the "response", which is the answer. The published code counts at the last token and while
            answering.
        answers: True: answers are generated and evaluated. False: only activations are counted.
        comet: a COMET model that also evaluates translations, as a name or a checkpoint file; None: none.
        template: as in `prompt`; None: the task's template.
        examples: as in `prompt`.
        instruction: as in `prompt`.
        chat: True: a prompt is a message in the tokenizer's chat template. False: it is the beginning of a text.
        names: as in `prompt`.
        batch_tokens: tokens in one forward, including padding.
        progress: whether to show progress on stderr.

    Returns:
        The tables, statistics and answers of all kinds of prompts.

    Raises:
        CorpusError: an item lacks an input, the prompts of all items exceed the model's positions, or no answer has a
            token to count at.
        BackendUnavailable: a package for a metric is not installed.
        UnsupportedModel: as in `activations`.
        NonFiniteActivations: as in `activations`.
        ValueError: an argument is invalid, or as in `prompt`.
    """
    _check_arguments(source, others, pivot, positions, answers, comet, task)
    probe = ActivationProbe(model)
    comet_model = _prepare_metrics(task, comet) if answers else None
    shown = kinds_of_prompts(others, pivot)

    def encode_item(item: ParallelItem, form: PromptForm, added: Sequence[str]) -> list[int]:
        text = prompt(
            item,
            form=form,
            source=source,
            others=added,
            target=target,
            template=template or task.template,
            examples=examples,
            instruction=instruction,
            labels=task.labels or LABELS,
            names=names,
        )
        return _encode_prompt(tokenizer, text, chat)

    all_prompts = {
        name: [encode_item(item, form, added) for item in task.items] for name, (form, added) in shown.items()
    }
    places = fitting_items(model, all_prompts, task.max_new_tokens if answers else 0)
    prompts = {name: [encoded[place] for place in places] for name, encoded in all_prompts.items()}
    items = [task.items[place] for place in places]
    generated = _generate_answers(model, tokenizer, task, prompts, batch_tokens, progress) if answers else {}
    texts = {name: [answer.text.strip() for answer in prompt_answers] for name, prompt_answers in generated.items()}
    statistics: dict[str, ActivationStatistics] = {}
    signatures: dict[str, str] = {}
    rows: list[dict[str, str | int | float]] = []
    for name, (_, added) in shown.items():
        documents = [(tokens, 0) for tokens in prompts[name]]
        if positions == "response":
            documents = [
                (tokens + answer.tokens, len(tokens)) for tokens, answer in zip(prompts[name], generated[name])
            ]
        counts = count_activations(probe, documents, positions, batch_tokens, name, progress, "prompts")
        if counts.tokens == 0:
            raise CorpusError(
                f"no answer to the prompts {name!r} has a token to count at: count at the prompts' last token instead"
            )
        statistics[name] = counts
        row: dict[str, str | int | float] = {"prompt": name, "languages": languages_shown(name, added)}
        row["tokens"] = sum(map(len, prompts[name])) / len(items)
        if answers:
            values, signatures = _evaluate_answers(task, comet_model, texts[name], items, source, target)
            row |= values
        row |= {"proportion": float(counts.proportion.mean()), "top_share": counts.most_active().share}
        rows.append(row)
    table, by_layer = _make_tables(rows, statistics)
    return Comparison(table, by_layer, statistics, texts, places, signatures, len(task.items) - len(items))


def _check_arguments(
    source: str,
    others: Sequence[str],
    pivot: str | None,
    positions: Positions,
    answers: bool,
    comet: str | None,
    task: ParallelTask,
) -> None:
    if positions not in POSITIONS:
        raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
    if positions == "response" and not answers:
        raise ValueError("positions='response' needs answers=True, which generates the responses")
    if isinstance(others, str) or not others or len(set(others)) < len(others) or source in others:
        raise ValueError(
            f"others must be a list of inputs to add, each once and without the source {source!r}: got {others!r}"
        )
    if pivot == source:
        raise ValueError(f"the pivot must be another input than the source, got {pivot!r} for both")
    if comet is not None and not (answers and task.metric == "bleu"):
        raise ValueError("COMET evaluates translations only: leave out comet for other tasks and for answers=False")


def _prepare_metrics(task: ParallelTask, comet: str | None) -> Comet | None:
    """Checks for the packages that the metrics need, so that a missing one fails at once; returns the COMET model."""
    if task.metric == "bleu":
        require_sacrebleu()
    return None if comet is None else load_comet(comet)


def _evaluate_answers(
    task: ParallelTask,
    comet: Comet | None,
    answers: list[str],
    items: Sequence[ParallelItem],
    source: str,
    target: str | None,
) -> tuple[dict[str, float], dict[str, str]]:
    """Returns metric values in percent, and sacrebleu's signatures."""
    references = [item.references for item in items]
    values, signatures = answer_metrics(task, answers, references, target)
    if comet is not None:
        values["comet"] = comet([" ".join(item.texts[source].values()) for item in items], answers, references)
    return values, signatures


def _encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str, chat: bool) -> list[int]:
    if chat:
        return tokenise_messages(tokenizer, [{"role": "user", "content": text}])
    return encode_prompt(tokenizer, text)


def _generate_answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: ParallelTask,
    prompts: Mapping[str, Sequence[list[int]]],
    batch_tokens: int,
    progress: bool,
) -> dict[str, list[Answer]]:
    # The metric of this task is not used.
    generation_task = Task(task.name, {}, "likelihood", task.stop, task.max_new_tokens)
    answers: dict[str, list[Answer]] = {}
    for name, encoded in prompts.items():
        with show_progress(f"{name}: answering", "items", progress, len(encoded)) as bar:
            generated = generate(
                model, tokenizer, encoded, [None], generation_task, batch_tokens=batch_tokens, on_progress=bar.update
            )
        answers[name] = [answer for (answer,) in generated]
    return answers


def _make_tables(
    rows: list[dict[str, str | int | float]], statistics: Mapping[str, ActivationStatistics]
) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    import pandas

    by_layer = [
        (name, layer, proportion)
        for name, counts in statistics.items()
        for layer, proportion in enumerate(counts.proportion.tolist())
    ]
    return pandas.DataFrame(rows), pandas.DataFrame(by_layer, columns=["prompt", "layer", "proportion"])
