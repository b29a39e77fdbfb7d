"""Metric values of a task under several sets of deactivated neurons, in shared batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from pymultiling.data.added_tokens import added_tokens, encode_alone
from pymultiling.errors import NON_FINITE_ADVICE, NonFiniteActivations
from pymultiling.models.head import require_language_model
from pymultiling.models.positions import position_limit
from pymultiling.models.unwrap import unwrap
from pymultiling.neurons.sets import NeuronSet
from pymultiling.runtime.progress import show_progress
from pymultiling.tasks.cut_prompts import cut_beginning, warn_about_cut_prompts
from pymultiling.tasks.generation import generate
from pymultiling.tasks.items import Item, Task
from pymultiling.tasks.likelihood import log_likelihoods
from pymultiling.tasks.metrics import CHOICE_METRICS, GENERATION_METRICS, METRICS, GenerationMetric, best_value
from pymultiling.tasks.shared_batches import prepend_none

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedTokenizerBase


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    sets: Mapping[str, NeuronSet],
    *,
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    batch_tokens: int = 4096,
    progress: bool = True,
) -> pandas.DataFrame:
    """Mean metric value of a task in every language, with each set of neurons deactivated.

    Args:
        model: a Hugging Face decoder with a language-model head, of a supported family.
        tokenizer: the model's tokenizer.
        task: the items and the metric.
        sets: {name: set of neurons}.
        scale: the factor of the sets' activations, as in `deactivate`; 0 sets them to zero.
        mean: {site: (layers, neurons)}, values that the activations are set to, as in `deactivate`; None: `scale`
            applies.
        batch_tokens: tokens in one forward, including padding.
        progress: whether to show progress on stderr.

    Returns:
        A DataFrame with a row "none" and a row for each set, and a column for each language. The values are the means
        over the items.

    Raises:
        UnsupportedModel: as in `deactivate` and `perplexity`.
        ValueError: as in `deactivate`, with the name of the set; or the items do not suit the task's metric.
        NonFiniteActivations: a log-likelihood is NaN or infinite. The message names the task, the language and the set.
    """
    import pandas

    sets_with_none = prepend_none(model, sets)
    total = len(sets_with_none) * sum(len(items) for items in task.items.values())
    columns: dict[str, Tensor] = {}
    with show_progress(task.name, "sets x items", progress, total) as bar:
        for language in task.items:
            columns[language] = metric_values(
                model,
                tokenizer,
                task,
                language,
                list(sets_with_none.values()),
                names=list(sets_with_none),
                scale=scale,
                mean=mean,
                batch_tokens=batch_tokens,
                on_progress=bar.update,
            )
    means = {language: values.mean(0).numpy() for language, values in columns.items()}
    return pandas.DataFrame(means, index=list(sets_with_none))


def metric_values(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    language: str,
    sets: Sequence[NeuronSet | None],
    *,
    names: Sequence[str] | None = None,
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    batch_tokens: int = 4096,
    on_progress: Callable[[int], object] = lambda count: None,
) -> Tensor:
    """Metric value of every item of a language under every set.

    Args:
        model: as in `evaluate`.
        tokenizer: as in `evaluate`.
        task: as in `evaluate`.
        language: the language of the items.
        sets: the sets of neurons to deactivate; None: no neurons.
        names: the names of the sets in messages; None: the messages name no set.
        scale: as in `evaluate`.
        mean: as in `evaluate`.
        batch_tokens: as in `evaluate`.
        on_progress: is called with the number of pairs (sets x items) that were measured since the last call.

    Returns:
        (items, sets) float64.

    Raises:
        UnsupportedModel: as in `evaluate`.
        ValueError: as in `evaluate`.
        NonFiniteActivations: as in `evaluate`.
    """
    model = unwrap(model)
    require_language_model(model)
    items = task.items[language]
    _check_task(task, items)
    if task.metric in GENERATION_METRICS:
        return _generation_values(model, tokenizer, task, language, sets, scale, mean, batch_tokens, on_progress)
    candidates = [item.choices if task.metric in CHOICE_METRICS else (item.answer,) for item in items]
    encoded = _encode_candidates(model, tokenizer, items, candidates, task.name)
    values = log_likelihoods(
        model,
        [tokens for tokens, _ in encoded],
        sets,
        starts=[start for _, start in encoded],
        batch_tokens=batch_tokens,
        scale=scale,
        mean=mean,
        on_progress=_ItemProgress(on_progress, candidates),
    )
    for number, set_values in enumerate(values.T):
        if not set_values.isfinite().all():
            off = "" if names is None or sets[number] is None else f" with set {names[number]!r} off"
            raise NonFiniteActivations(
                f"{task.name}, {language!r}{off}: log-likelihoods are NaN or infinite: {NON_FINITE_ADVICE}"
            )
    if task.metric != "accuracy":
        values = values / torch.tensor([len(tokens) - start for tokens, start in encoded])[:, None]
    if task.metric == "likelihood":
        return values
    by_item = torch.split(values, [len(choices) for choices in candidates])
    chosen = torch.stack([choice_values.argmax(0) for choice_values in by_item])
    gold = torch.tensor([item.choices.index(item.answer) for item in items])
    return (chosen == gold[:, None]).double()


def _generation_values(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    language: str,
    sets: Sequence[NeuronSet | None],
    scale: float,
    mean: Mapping[str, Tensor] | None,
    batch_tokens: int,
    on_progress: Callable[[int], object],
) -> Tensor:
    """Returns what `metric_values` returns, for a metric of generated answers."""
    items, metric = task.items[language], cast("GenerationMetric", task.metric)
    answers = generate(
        model,
        tokenizer,
        [item.prompt for item in items],
        sets,
        task,
        scale=scale,
        mean=mean,
        batch_tokens=batch_tokens,
        on_progress=on_progress,
    )
    values = [
        [best_value(metric, answer.text, item.references, language) for answer in item_answers]
        for item, item_answers in zip(items, answers)
    ]
    return torch.tensor(values, dtype=torch.float64)


class _ItemProgress:
    """Converts progress in choices to progress in items, assuming the mean number of choices for each item."""

    def __init__(self, on_progress: Callable[[int], object], candidates: Sequence[Sequence[str]]) -> None:
        self._on_progress = on_progress
        self._choices_per_item = sum(map(len, candidates)) / len(candidates)
        self._choices = self._reported_items = 0

    def __call__(self, count: int) -> None:
        self._choices += count
        items = round(self._choices / self._choices_per_item)
        self._on_progress(items - self._reported_items)
        self._reported_items = items


def _check_task(task: Task, items: Sequence[Item]) -> None:
    """Checks that the items suit the task's metric. Raises ValueError if they do not."""
    if task.metric not in METRICS:
        raise ValueError(f"task {task.name}: metric must be one of {', '.join(METRICS)}, got {task.metric!r}")
    if not items:
        raise ValueError(f"task {task.name} has no items in a language: give items, or leave the language out")
    if task.metric in CHOICE_METRICS:
        field = "choices"
    elif task.metric in GENERATION_METRICS:
        field = "references"
    else:
        field = "answer"
    if not all(getattr(item, field) for item in items):
        raise ValueError(
            f"task {task.name} cannot be evaluated by {task.metric!r}: its items have no {field}; choose another metric"
        )
    if task.metric in GENERATION_METRICS and task.max_new_tokens < 1:
        raise ValueError(f"task {task.name} generates answers: max_new_tokens must be at least 1")
    for item in items if task.metric in CHOICE_METRICS else ():
        if item.answer not in item.choices:
            raise ValueError(
                f"task {task.name}: the answer {item.answer!r} is none of the choices {item.choices!r}: add it to them"
            )


def _encode_candidates(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    candidates: Sequence[Sequence[str]],
    name: str,
) -> list[tuple[list[int], int]]:
    """Encodes every prompt with each of its answers.

    Returns:
        For each answer of each item, in their order, the tokens and the index of the first token that counts. The
        choices of an item share this index.
    """
    max_positions = position_limit(model)
    documents: list[tuple[list[int], int]] = []
    cut_prompts = 0
    for item, answers in zip(items, candidates):
        encoded = [encode_answer(tokenizer, item.prompt, answer) for answer in answers]
        start = min(start for _, start in encoded)
        longest = max(len(tokens) for tokens, _ in encoded)
        excess = 0 if max_positions is None else max(0, longest - max_positions)
        cut_prompts += excess > 0
        for tokens, _ in encoded:
            documents.append((cut_beginning(tokens, excess, start - 1, tokenizer), start - excess))
            if start - excess < 1:
                raise ValueError(
                    f"{name}: an answer of {longest - start} tokens leaves no room for its prompt in the model's "
                    f"{max_positions} positions: leave the item out"
                )
    if cut_prompts:
        assert max_positions is not None  # else no prompt is too long
        warn_about_cut_prompts(name, cut_prompts, max_positions)
    return documents


def encode_answer(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> tuple[list[int], int]:
    """Encodes a prompt followed by an answer.

    A space between them belongs to the answer, as in most tokenizers. A token that covers the end of the prompt and the
    beginning of the answer counts as part of the answer. Tokens that the tokenizer puts after a text are left out.

    Returns:
        The tokens, and the index of the answer's first token.

    Raises:
        ValueError: the answer has no token, or there is no token before it.
    """
    head = prompt.rstrip(" ")
    added = added_tokens(tokenizer).before
    whole, before = (added + encode_alone(tokenizer, text) for text in (prompt + answer, head))
    start = next((index for index, (a, b) in enumerate(zip(before, whole)) if a != b), min(len(before), len(whole)))
    if start >= len(whole):
        raise ValueError(f"the answer {answer!r} has no token: give another answer")
    if start == 0:
        raise ValueError(
            f"nothing comes before the answer {answer!r}: give a prompt, or a tokenizer that begins a text with a token"
        )
    return whole, start
