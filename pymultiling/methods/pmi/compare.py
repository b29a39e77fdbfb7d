"""Direct, pivot and parallel input compared: how well a task is solved, and how many neurons are active."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from pymultiling.errors import CorpusError
from pymultiling.methods.activations import count_activations
from pymultiling.methods.pmi.chat import message_tokens
from pymultiling.methods.pmi.items import ParallelItem, ParallelTask
from pymultiling.methods.pmi.prompts import prompt
from pymultiling.methods.pmi.scores import load_comet, require_sacrebleu, scores
from pymultiling.neurons.activation_statistics import ActivationStatistics
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.runtime.progress import show_progress
from pymultiling.tasks.generation import Answer, generate
from pymultiling.tasks.items import Task

if TYPE_CHECKING:
    import pandas

POSITIONS = ("last", "all", "response")


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found.

    Attributes:
        table: a row for each kind of prompt: prompt ("direct", "pivot", "PMI-1", ...), languages (inputs that it shows), tokens
            (of a prompt, mean), the scores in percent where answers were asked for, proportion (of all neurons that are
            active), top_share (of all activations, the part of the 1% of neurons that are active most often).
        by_layer: prompt, layer, proportion.
        statistics: {prompt: ActivationStatistics}; `most_active` of one is its curve of top frequencies.
        answers: {prompt: the answers, an item each}; empty where none were asked for.
        places: those of the task's items that were compared, the same ones for every kind of prompt.
        signatures: {score: sacrebleu's signature}, with which a score can be made again.
        left_out: how many have a prompt that the model's positions cannot hold.
    """

    table: pandas.DataFrame
    by_layer: pandas.DataFrame
    statistics: dict[str, ActivationStatistics]
    answers: dict[str, list[str]]
    places: list[int]
    signatures: dict[str, str]
    left_out: int

    @property
    def items(self) -> int:
        """How many were compared."""
        return len(self.places)


def compare(
    model: nn.Module,
    tokenizer,
    task: ParallelTask,
    *,
    source: str,
    others: Sequence[str],
    target: str | None = None,
    pivot: str | None = None,
    positions: str = "last",
    answers: bool = True,
    comet: str | None = None,
    template: str | None = None,
    examples: Sequence[tuple[ParallelItem, str]] = (),
    instruction: str = "",
    chat: bool = False,
    names: Mapping[str, str] | None = None,
    batch_tokens: int = 4096,
    progress: bool = False,
) -> Comparison:
    """Runs a task with its input in one language, and in 1, 2, ... more languages at once (arXiv 2403.09073).

    "direct" shows the source alone, "pivot" its translation alone, "PMI-k" the source and the first k of the others. Prompts
    grow with k, and the last language is another one each time: compare proportions with this in mind, and try another order.

    Args:
        model: a Hugging Face decoder with a language-model head, of a supported family.
        tokenizer: its tokenizer.
        task: items with their inputs and references.
        source: the input that is the original.
        others: inputs to add, in this order; k goes from 1 to their number.
        target: the language of the answer, for translation and whatever asks for one.
        pivot: one input to compare with that is shown alone; None: no such row.
        positions: where activations are counted: at the "last" token of the prompt, at "all" of it, or at the tokens of the
            "response", the answer (the published code counts at the last token and while it answers).
        answers: whether to generate answers and score them; False: only activations are counted.
        comet: a COMET model to score translations with too; None: none.
        template, examples, instruction, names: as in `prompt`; template None: the task's.
        chat: whether a prompt is given as a message, in the tokenizer's chat template, or as the beginning of a text.
        batch_tokens: tokens in one forward, padding included.
        progress: show it on stderr.

    Returns:
        Comparison.

    Raises:
        CorpusError: an item lacks a language, no item's prompts fit the model, or no answer has a token to count at.
        BackendUnavailable: a package for the scores is not installed.
        UnsupportedModel, NonFiniteActivations, ValueError: as `activations`.
    """
    _check(source, others, pivot, positions, answers, comet, task)
    probe, judge = ActivationProbe(model), _judge(task, comet) if answers else None
    shown = {"direct": ("direct", ()), **({} if pivot is None else {"pivot": ("pivot", (pivot,))})}
    shown |= {f"PMI-{number}": ("pmi", tuple(others[:number])) for number in range(1, len(others) + 1)}
    options = {"source": source, "target": target, "examples": examples, "instruction": instruction, "names": names}
    options |= {"template": template or task.template, **({"labels": task.labels} if task.labels else {})}
    prompts = {
        name: [_encoded(tokenizer, prompt(item, form=form, others=added, **options), chat) for item in task.items]
        for name, (form, added) in shown.items()
    }
    places = _fitting(model, prompts, task.max_new_tokens if answers else 0)
    prompts = {name: [of_kind[place] for place in places] for name, of_kind in prompts.items()}
    items = [task.items[place] for place in places]
    found = _answers(model, tokenizer, task, prompts, batch_tokens, progress) if answers else {}
    texts = {name: [answer.text.strip() for answer in of_kind] for name, of_kind in found.items()}
    statistics, rows, signatures = {}, [], {}
    for name, (_, added) in shown.items():
        documents = [(tokens, 0) for tokens in prompts[name]]
        if positions == "response":
            documents = [(tokens + more.tokens, len(tokens)) for tokens, more in zip(prompts[name], found[name])]
        statistics[name] = one = count_activations(probe, documents, positions, batch_tokens, name, progress, "prompts")
        if one.tokens == 0:
            raise CorpusError(
                f"no answer to the prompts {name!r} has a token to count at: count at the prompts' last one"
            )
        row = {"prompt": name, "languages": 1 if name == "pivot" else 1 + len(added)}
        row["tokens"] = sum(map(len, prompts[name])) / len(items)
        if judge is not None:
            values, signatures = judge(texts[name], items, source, target)
            row |= values
        rows.append(row | {"proportion": float(one.proportion.mean()), "top_share": one.most_active().share})
    left_out = len(task.items) - len(items)
    return Comparison(*_tables(rows, statistics), statistics, texts, places, signatures, left_out)


def _check(
    source: str,
    others: Sequence[str],
    pivot: str | None,
    positions: str,
    answers: bool,
    comet: str | None,
    task: ParallelTask,
) -> None:
    if positions not in POSITIONS:
        raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
    if positions == "response" and not answers:
        raise ValueError("activations in responses are counted only with answers=True, which makes them")
    if isinstance(others, str) or not others or len(set(others)) < len(others) or source in others:
        raise ValueError(
            f"others must be a list of inputs to add, each once and without the source {source!r}: got {others!r}"
        )
    if pivot == source:
        raise ValueError(f"the pivot must be another input than the source, got {pivot!r} for both")
    if comet is not None and not (answers and task.metric == "bleu"):
        raise ValueError(
            "COMET scores translations: leave out comet for other tasks, and where no answers are asked for"
        )


def _judge(task: ParallelTask, comet: str | None) -> Callable:
    """Scores answers; packages that this needs are looked for at once, not after hours of work."""
    if task.metric == "bleu":
        require_sacrebleu()
    model = None if comet is None else load_comet(comet)

    def judge(answers: list[str], items: Sequence[ParallelItem], source: str, target: str | None):
        references = [item.references for item in items]
        values, signatures = scores(task, answers, references, target)
        if model is not None:
            values["comet"] = model([" ".join(item.texts[source].values()) for item in items], answers, references)
        return values, signatures

    return judge


def _encoded(tokenizer, text: str, chat: bool) -> list[int]:
    if chat:
        return message_tokens(tokenizer, [{"role": "user", "content": text}])
    return tokenizer(text, verbose=False)["input_ids"]


def _fitting(model: nn.Module, prompts: Mapping[str, Sequence[list[int]]], more: int) -> list[int]:
    """The places of items all of whose prompts the model can hold, with so many more tokens."""
    room = getattr(model.config, "max_position_embeddings", None)
    longest = [max(map(len, of_item)) for of_item in zip(*prompts.values())]
    if not longest:
        raise CorpusError("there are no items to compare: give more, or fewer examples")
    fits = [place for place, length in enumerate(longest) if room is None or length + more <= room]
    if not fits:
        raise CorpusError(
            f"no items to compare: the shortest take {min(longest)} tokens and {more} for the answer; the model has {room} "
            "positions, so give fewer languages or shorter items"
        )
    return fits


def _answers(
    model: nn.Module,
    tokenizer,
    task: ParallelTask,
    prompts: Mapping[str, Sequence[list[int]]],
    batch_tokens: int,
    progress: bool,
) -> dict[str, list[Answer]]:
    form = Task(task.name, {}, "", task.stop, task.max_new_tokens)
    found = {}
    for name, of_kind in prompts.items():
        with show_progress(f"{name}: answering", "items", progress, len(of_kind)) as bar:
            given = generate(model, tokenizer, of_kind, [None], form, batch_tokens=batch_tokens, done=bar.update)
        found[name] = [answer for (answer,) in given]
    return found


def _tables(rows: list[dict], counted: Mapping[str, ActivationStatistics]) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    import pandas

    by_layer = [
        (name, layer, proportion)
        for name, one in counted.items()
        for layer, proportion in enumerate(one.proportion.tolist())
    ]
    return pandas.DataFrame(rows), pandas.DataFrame(by_layer, columns=["prompt", "layer", "proportion"])
