"""Direct, pivot and parallel input compared: how well a task is solved, and how many neurons are active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from pymultiling.activation_statistics import ActivationStatistics
from pymultiling.errors import CorpusError
from pymultiling.methods.activations import activations
from pymultiling.pmi.items import ParallelItem, ParallelTask
from pymultiling.pmi.prompts import prompt
from pymultiling.pmi.scores import comet as comet_score
from pymultiling.pmi.scores import scores
from pymultiling.progress import progress as show_progress
from pymultiling.tasks.generation import generate
from pymultiling.tasks.items import Task

if TYPE_CHECKING:
    import pandas

POSITIONS = ("last", "all", "response")
TOP = 0.01  # of all neurons, whose share of the activations is given


@dataclass(frozen=True)
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
    names: dict[str, str] | None = None,
    batch_tokens: int = 4096,
    progress: bool = False,
) -> Comparison:
    """Runs a task with its input in one language, and in 1, 2, ... more languages at once (arXiv 2403.09073).

    "direct" shows the source alone, "pivot" its translation alone, "PMI-k" the source and the first k of the others. Prompts
    grow with k, and their last token is the same: compare the proportions with this in mind.

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
        batch_tokens: tokens in one forward, padding included.
        progress: show it on stderr.

    Returns:
        Comparison.

    Raises:
        CorpusError: an item lacks a language, or no item's prompts fit the model.
        BackendUnavailable: a package for the scores is not installed.
        UnsupportedModel, NonFiniteActivations, ValueError: as `activations`.
    """
    if positions not in POSITIONS:
        raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
    if positions == "response" and not answers:
        raise ValueError("activations in responses are counted only with answers=True, which makes them")
    if not others:
        raise ValueError("no other language was given: pass others=[...], in the order in which they are to be added")
    shown = {"direct": ("direct", ()), **({} if pivot is None else {"pivot": ("pivot", (pivot,))})}
    shown |= {f"PMI-{count}": ("pmi", tuple(others[:count])) for count in range(1, len(others) + 1)}
    options = {"source": source, "target": target, "examples": examples, "instruction": instruction, "names": names}
    options |= {"template": template or task.template, **({"labels": task.labels} if task.labels else {})}
    prompts = {
        name: [prompt(item, form=form, others=of_form, **options) for item in task.items]
        for name, (form, of_form) in shown.items()
    }
    encoded = {name: tokenizer(of_kind, verbose=False)["input_ids"] for name, of_kind in prompts.items() if of_kind}
    lengths = [[len(ids) for ids in of_item] for of_item in zip(*encoded.values())]
    places = _fitting(model, lengths, task.max_new_tokens if answers else 0)
    prompts = {name: [of_kind[place] for place in places] for name, of_kind in prompts.items()}
    items = [task.items[place] for place in places]
    found = _answers(model, tokenizer, task, prompts, batch_tokens, progress) if answers else {}
    counted = activations(
        model,
        tokenizer,
        {name: list(zip(prompts[name], found[name])) for name in shown} if positions == "response" else prompts,
        positions=positions,
        max_length=max(max(lengths[place]) for place in places) + task.max_new_tokens,
        batch_tokens=batch_tokens,
        progress=progress,
    )
    found = {name: [answer.strip() for answer in of_kind] for name, of_kind in found.items()}
    rows, signatures = [], {}
    for number, (name, (_, added)) in enumerate(shown.items()):
        row = {"prompt": name, "languages": 1 if name == "pivot" else 1 + len(added)}
        row["tokens"] = sum(lengths[place][number] for place in places) / len(places)
        if answers:
            values, signatures = scores(task, found[name], [item.references for item in items], target)
            row |= values
            if comet is not None:
                row["comet"] = _comet(comet, items, source, found[name])
        row["proportion"] = float(counted[name].proportion.mean())
        row["top_share"] = counted[name].most_active(TOP).share
        rows.append(row)
    left_out = len(task.items) - len(items)
    return Comparison(*_tables(rows, counted), dict(counted), found, places, signatures, left_out)


def _fitting(model: nn.Module, lengths: list[list[int]], more: int) -> list[int]:
    """The places of items all of whose prompts the model can hold, with so many more tokens."""
    room = getattr(model.config, "max_position_embeddings", None)
    fits = [place for place, of_item in enumerate(lengths) if room is None or max(of_item) + more <= room]
    if not fits:
        least = min(map(max, lengths), default=0)
        why = f"the shortest take {least} tokens and {more} for the answer" if lengths else "the task has none"
        raise CorpusError(
            f"no items to compare: {why}; the model has {room} positions, so give fewer languages or shorter items"
        )
    return fits


def _answers(
    model: nn.Module, tokenizer, task: ParallelTask, prompts: dict[str, list[str]], batch_tokens: int, progress: bool
) -> dict[str, list[str]]:
    form = Task(task.name, {}, "", task.stop, task.max_new_tokens)
    found = {}
    for name, of_kind in prompts.items():
        with show_progress(f"{name}: answering", "items", progress, len(of_kind)) as bar:
            given = generate(model, tokenizer, of_kind, [None], form, batch_tokens=batch_tokens, done=bar.update)
        found[name] = [answer for (answer,) in given]
    return found


def _comet(name: str, items: Sequence[ParallelItem], source: str, answers: Sequence[str]) -> float:
    originals = [" ".join(item.texts[source].values()) for item in items]
    return comet_score(name, originals, answers, [item.references for item in items])


def _tables(rows: list[dict], counted: Mapping[str, ActivationStatistics]) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    import pandas

    by_layer = [
        (name, layer, proportion)
        for name, one in counted.items()
        for layer, proportion in enumerate(one.proportion.tolist())
    ]
    return pandas.DataFrame(rows), pandas.DataFrame(by_layer, columns=["prompt", "layer", "proportion"])
