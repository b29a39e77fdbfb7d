"""Scores of a task under many sets of neurons, in shared batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pymultiling.errors import NonFiniteActivations
from pymultiling.neurons.sets import NeuronSet
from pymultiling.runtime.progress import show_progress
from pymultiling.tasks.cut_prompts import warn_of_cut, without_beginning
from pymultiling.tasks.generation import generate
from pymultiling.tasks.items import Item, Task
from pymultiling.tasks.likelihood import log_likelihoods
from pymultiling.tasks.metrics import CHOSEN, GENERATED, METRICS, best
from pymultiling.tasks.shared_batches import prepend_none

if TYPE_CHECKING:
    import pandas


def evaluate(
    model: nn.Module,
    tokenizer,
    task: Task,
    sets: Mapping[str, NeuronSet],
    *,
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    batch_tokens: int = 4096,
    progress: bool = False,
) -> pandas.DataFrame:
    """Mean score of a task in every language with each set of neurons off.

    Args:
        model: a Hugging Face decoder with a language-model head, of a supported family.
        tokenizer: its tokenizer.
        task: what is asked, and the metric.
        sets: {name: NeuronSet}.
        scale, mean: what becomes of the sets' neurons, as in `deactivate`; by default they are zero.
        batch_tokens: tokens in one forward, padding included.
        progress: show it on stderr.

    Returns:
        DataFrame; rows: "none" and the sets; columns: languages.

    Raises:
        UnsupportedModel, ValueError: as `deactivate`, naming the set; the task cannot be scored by its metric.
        NonFiniteActivations: naming task, language and set.
    """
    import pandas

    named = prepend_none(model, sets)
    options = {"scale": scale, "mean": mean, "batch_tokens": batch_tokens}
    total = len(named) * sum(len(items) for items in task.items.values())
    with show_progress(task.name, "sets x items", progress, total) as bar:
        columns = {
            language: metric_values(
                model, tokenizer, task, language, list(named.values()), names=list(named), done=bar.update, **options
            )
            for language in task.items
        }
    return pandas.DataFrame({language: found.mean(0).numpy() for language, found in columns.items()}, index=list(named))


def metric_values(
    model: nn.Module,
    tokenizer,
    task: Task,
    language: str,
    sets: Sequence[NeuronSet | None],
    *,
    names: Sequence[str] | None = None,
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    batch_tokens: int = 4096,
    done: Callable[[int], object] = lambda count: None,
) -> Tensor:
    """(items, sets) float64: the score of every item of a language with every set off.

    names: of the sets, for messages. done: is called with the number of sets x items that were measured. Else as `evaluate`.
    """
    items = task.items[language]
    _check(task, items)
    options = {"scale": scale, "mean": mean, "batch_tokens": batch_tokens}
    if task.metric in GENERATED:
        answers = generate(model, tokenizer, [item.prompt for item in items], sets, task, done=done, **options)
        found = [
            [best(task.metric, answer.text, item.references, language) for answer in of_item]
            for item, of_item in zip(items, answers)
        ]
        return torch.tensor(found, dtype=torch.float64)
    candidates = [item.choices if task.metric in CHOSEN else (item.answer,) for item in items]
    encoded = _encoded(model, tokenizer, items, candidates, task.name)
    documents, starts = zip(*encoded)
    finished = _PerItem(done, candidates)
    found = log_likelihoods(model, documents, sets, starts=starts, done=finished, **options)
    for number, of_set in enumerate(found.T):
        if not of_set.isfinite().all():
            off = "" if names is None or sets[number] is None else f" with set {names[number]!r} off"
            raise NonFiniteActivations(f"{task.name}, {language!r}{off}: log-likelihoods are NaN or infinite")
    if task.metric != "accuracy":
        found = found / torch.tensor([len(tokens) - start for tokens, start in encoded])[:, None]
    if task.metric == "likelihood":
        return found
    likely = torch.stack([one.argmax(0) for one in found.split([len(some) for some in candidates])])
    gold = torch.tensor([item.choices.index(item.answer) for item in items])
    return (likely == gold[:, None]).double()


class _PerItem:
    """Counts choices, tells of items."""

    def __init__(self, done: Callable[[int], object], candidates: Sequence[Sequence[str]]):
        self._done, self._choices = done, sum(map(len, candidates)) / len(candidates)
        self._counted = self._told = 0

    def __call__(self, count: int) -> None:
        self._counted += count
        whole = round(self._counted / self._choices)
        self._done(whole - self._told)
        self._told = whole


def _check(task: Task, items: Sequence[Item]) -> None:
    if task.metric not in METRICS:
        raise ValueError(f"task {task.name}: metric must be one of {', '.join(METRICS)}, got {task.metric!r}")
    if not items:
        raise ValueError(f"task {task.name} has no items")
    lacks = "choices" if task.metric in CHOSEN else "references" if task.metric in GENERATED else "answer"
    if not all(getattr(item, lacks) for item in items):
        raise ValueError(f"task {task.name} cannot be scored by {task.metric!r}: its items have no {lacks}")
    if task.metric in GENERATED and task.max_new_tokens < 1:
        raise ValueError(f"task {task.name} generates answers: max_new_tokens must be at least 1")
    for item in items if task.metric in CHOSEN else ():
        if item.answer not in item.choices:
            raise ValueError(f"task {task.name}: the answer {item.answer!r} is none of the choices {item.choices!r}")


def _encoded(
    model, tokenizer, items: Sequence[Item], candidates: Sequence[Sequence[str]], name: str
) -> list[tuple[list[int], int]]:
    """Tokens of every prompt and answer, and the first token of the answer: the same for all choices of an item."""
    room = getattr(model.config, "max_position_embeddings", None)
    found, cut = [], 0
    for item, answers in zip(items, candidates):
        encoded = [encode(tokenizer, item.prompt, answer) for answer in answers]
        start = min(start for _, start in encoded)
        longest = max(len(tokens) for tokens, _ in encoded)
        over = 0 if room is None else max(0, longest - room)
        cut += over > 0
        for tokens, _ in encoded:
            found.append((without_beginning(tokens, over, start - 1, tokenizer), start - over))
            if start - over < 1:
                raise ValueError(f"{name}: an answer of {longest - start} tokens leaves no room for its prompt")
    if cut:
        warn_of_cut(name, cut, room)
    return found


def encode(tokenizer, prompt: str, answer: str) -> tuple[list[int], int]:
    """Tokens of a prompt and an answer behind it, and the place of the answer's first.

    A space between them is the answer's, as tokenizers have it. Where a token holds the end of one and the beginning of the
    other it counts to the answer.
    """
    head = prompt.rstrip(" ")
    whole = tokenizer(prompt + answer, verbose=False)["input_ids"]
    before = tokenizer(head, verbose=False)["input_ids"]
    start = next((place for place, (a, b) in enumerate(zip(before, whole)) if a != b), min(len(before), len(whole)))
    if start >= len(whole):
        raise ValueError(f"the answer {answer!r} has no token")
    if start == 0:
        raise ValueError(
            f"nothing comes before the answer {answer!r}: a prompt, or a token that opens texts, is needed"
        )
    return whole, start
