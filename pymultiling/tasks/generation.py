"""Greedy answers under many sets of neurons, in shared batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import StoppingCriteria

from pymultiling.models.decoder import Decoder, evaluation_mode, model_device
from pymultiling.neurons.sets import NeuronSet
from pymultiling.probes.masking import change_neurons
from pymultiling.tasks.cut_prompts import warn_of_cut, without_beginning
from pymultiling.tasks.items import Task
from pymultiling.tasks.shared_batches import shared_batches

# Whatever the model's own configuration of generation asks for.
GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}


class Answer(NamedTuple):
    """A generated answer: its text without what follows a stop string, and the tokens it was generated with."""

    text: str
    tokens: list[int]


@torch.no_grad()
def generate(
    model: nn.Module,
    tokenizer,
    prompts: Sequence[str | list[int]],
    sets: Sequence[NeuronSet | None],
    task: Task,
    *,
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    batch_tokens: int = 4096,
    done: Callable[[int], object] = lambda count: None,
) -> list[list[Answer]]:
    """The answer to every prompt with every set off.

    Batches are prompts of like length, padded on the left, each once for every set; the sets of their rows differ.

    Args:
        model: a Hugging Face decoder with a language-model head, of a supported family.
        tokenizer: its tokenizer.
        prompts: texts or their tokens; longer ones than the model has room for are cut at their beginning, with a warning.
        sets: what is off; None: nothing.
        task: its stop strings and max_new_tokens.
        scale, mean: as in `deactivate`.
        batch_tokens: tokens of one batch, the answers' included.
        done: is called with the number of rows (prompts x sets) that were answered.
    """
    device, room = model_device(model), getattr(model.config, "max_position_embeddings", None)
    tokens = [tokenizer(one, verbose=False)["input_ids"] if isinstance(one, str) else one for one in prompts]
    if room is not None:
        tokens = _cut(tokens, room, task, tokenizer)
    pad = next((x for x in (tokenizer.pad_token_id, tokenizer.eos_token_id) if x is not None), 0)
    ends, found = _ends(model), [[Answer("", [])] * len(sets) for _ in prompts]
    with change_neurons(Decoder(model), sets, scale, mean) as rows, evaluation_mode(model):
        layout = {"pad": pad, "left": True, "more": task.max_new_tokens}
        for batch, places, numbers in shared_batches(tokens, len(sets), batch_tokens, **layout):
            rows.assign(torch.tensor(numbers))
            longest = batch.input_ids.shape[1]
            answers = model.generate(
                input_ids=batch.input_ids.to(device),
                attention_mask=batch.attention_mask.to(device),
                max_new_tokens=task.max_new_tokens,
                pad_token_id=pad,
                **GREEDY,
                stopping_criteria=[_Stops(tokenizer, longest, task.stop)] if task.stop else None,
            )
            for place, number, of_row in zip(places, numbers, answers[:, longest:].tolist()):
                found[place][number] = _answer(of_row, tokenizer, ends, task.stop)
            done(len(places))
    return found


def _cut(tokens: list[list[int]], room: int, task: Task, tokenizer) -> list[list[int]]:
    if room - task.max_new_tokens < 2:
        raise ValueError(
            f"{task.name}: {task.max_new_tokens} new tokens leave no prompt in the model's {room} positions"
        )
    over = [max(0, len(one) + task.max_new_tokens - room) for one in tokens]
    if any(over):
        warn_of_cut(task.name, sum(map(bool, over)), room)
    return [without_beginning(one, count, len(one), tokenizer) for one, count in zip(tokens, over)]


class _Stops(StoppingCriteria):
    """Ends a row at a stop string; transformers' own looks into the vocabulary and fails for some tokenizers."""

    def __init__(self, tokenizer, prompt: int, stop: Sequence[str]):
        self._tokenizer, self._prompt, self._stop = tokenizer, prompt, stop

    def __call__(self, input_ids: Tensor, scores: Tensor, **options) -> Tensor:
        texts = self._tokenizer.batch_decode(input_ids[:, self._prompt :], skip_special_tokens=True)
        ended = [any(one in text for one in self._stop) for text in texts]
        return torch.tensor(ended, device=input_ids.device)


def _answer(tokens: list[int], tokenizer, ends: list[int | None], stop: Sequence[str]) -> Answer:
    """The tokens before one that ends a text, and before the one that brings a stop string."""
    tokens = tokens[: next((place for place, token in enumerate(tokens) if token in ends), None)]
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    end = min((place for place in map(text.find, stop) if place >= 0), default=None)
    while end is not None and any(one in tokenizer.decode(tokens, skip_special_tokens=True) for one in stop):
        tokens = tokens[:-1]
    return Answer(text[:end], tokens)


def _ends(model: nn.Module) -> list[int | None]:
    """The tokens after which the model generates no more."""
    given = model.generation_config.eos_token_id
    return given if isinstance(given, list) else [given]
