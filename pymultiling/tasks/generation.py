"""Greedy generation of answers under several sets of deactivated neurons, in shared batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypedDict, cast

import torch
from torch import Tensor, nn
from transformers import StoppingCriteria

from pymultiling.data.added_tokens import encode_prompt
from pymultiling.models.decoder import Decoder, check_token_ids, model_device
from pymultiling.models.length_scaling import length_group
from pymultiling.models.modes import evaluation_mode
from pymultiling.models.positions import position_limit
from pymultiling.neurons.sets import NeuronSet
from pymultiling.probes.neuron_changes import change_neurons
from pymultiling.probes.verification.entry import require_verified, sites_of_sets
from pymultiling.tasks.cut_prompts import cut_beginning, warn_about_cut_prompts
from pymultiling.tasks.items import Task
from pymultiling.tasks.shared_batches import shared_batches

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase


class GreedyOptions(TypedDict):
    """Options of `generate` that make it greedy."""

    do_sample: bool
    num_beams: int
    num_return_sequences: int
    repetition_penalty: float
    no_repeat_ngram_size: int


# These options override the model's own generation configuration.
GREEDY: Final[GreedyOptions] = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}


class GenerativeModel(Protocol):
    """The parts of a Hugging Face model that generation uses."""

    config: PreTrainedConfig
    generation_config: GenerationConfig

    def generate(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        max_new_tokens: int,
        pad_token_id: int,
        stopping_criteria: list[StoppingCriteria] | None,
        do_sample: bool,
        num_beams: int,
        num_return_sequences: int,
        repetition_penalty: float,
        no_repeat_ngram_size: int,
        eos_token_id: list[int] | None = ...,
        forced_eos_token_id: int | None = ...,
        forced_bos_token_id: int = ...,
    ) -> Tensor:
        """Returns (rows, tokens) int64, the input followed by the answers."""
        ...


class Answer(NamedTuple):
    """A generated answer: its text up to a stop string, and the tokens of that text."""

    text: str
    tokens: list[int]


@torch.no_grad()
def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | list[int]],
    sets: Sequence[NeuronSet | None],
    task: Task,
    *,
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    batch_tokens: int = 4096,
    on_progress: Callable[[int], object] = lambda count: None,
) -> list[list[Answer]]:
    """Generates the answer to every prompt under every set.

    A batch holds prompts of similar length, padded on the left, each once for every set.

    Args:
        model: a Hugging Face decoder with a language-model head, of a supported family.
        tokenizer: the model's tokenizer.
        prompts: texts, which get the tokens that the tokenizer puts before a text but not those after it; or tokens.
            Prompts that exceed the model's positions are cut at their beginning, with a warning.
        sets: the sets of neurons to deactivate; None: no neurons.
        task: the task, whose stop strings and max_new_tokens are used.
        scale: as in `deactivate`.
        mean: as in `deactivate`.
        batch_tokens: tokens of one batch, including the answers.
        on_progress: is called with the number of rows (prompts x sets) that were answered since the last call.

    Returns:
        For every prompt, the answers under every set.

    Raises:
        ValueError: task.max_new_tokens leaves no positions for prompts.
    """
    generative_model = cast("GenerativeModel", model)
    device = model_device(model)
    max_positions = position_limit(model)
    tokens = [encode_prompt(tokenizer, prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    if max_positions is not None:
        tokens = _cut_prompts(tokens, max_positions, task, tokenizer)
    pad = next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)
    end_tokens = _end_tokens(generative_model)
    answers = [[Answer("", [])] * len(sets) for _ in prompts]
    decoder = Decoder(model)
    require_verified(decoder, sites_of_sets(sets))
    with change_neurons(decoder, sets, scale, mean) as rows, evaluation_mode(model):
        batches = shared_batches(
            tokens,
            len(sets),
            batch_tokens,
            pad=pad,
            left=True,
            extra_tokens=task.max_new_tokens,
            group=length_group(model),
        )
        for batch, prompt_indices, set_indices in batches:
            rows.assign(torch.tensor(set_indices))
            longest = batch.input_ids.shape[1]
            check_token_ids(model, batch.input_ids)
            output = generative_model.generate(
                input_ids=batch.input_ids.to(device),
                attention_mask=batch.attention_mask.to(device),
                max_new_tokens=task.max_new_tokens,
                pad_token_id=pad,
                **GREEDY,
                stopping_criteria=[_StopStrings(tokenizer, longest, task.stop)] if task.stop else None,
            )
            for prompt_index, set_index, row in zip(prompt_indices, set_indices, output[:, longest:].tolist()):
                answers[prompt_index][set_index] = _cut_answer(row, tokenizer, end_tokens, task.stop)
            on_progress(len(prompt_indices))
    return answers


def _cut_prompts(
    prompts: list[list[int]], max_positions: int, task: Task, tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Returns the prompts, cut at their beginning so that the new tokens fit the model's positions."""
    if max_positions - task.max_new_tokens < 2:
        raise ValueError(
            f"{task.name}: {task.max_new_tokens} new tokens leave no prompt in the model's {max_positions} positions: "
            "give a smaller max_new_tokens"
        )
    excess = [max(0, len(tokens) + task.max_new_tokens - max_positions) for tokens in prompts]
    if any(excess):
        warn_about_cut_prompts(task.name, sum(map(bool, excess)), max_positions)
    return [cut_beginning(tokens, count, len(tokens), tokenizer) for tokens, count in zip(prompts, excess)]


class _StopStrings(StoppingCriteria):
    """Ends a row at a stop string.

    transformers' own criterion reads the vocabulary, which fails for some tokenizers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_length: int, stop: Sequence[str]) -> None:
        self._tokenizer, self._prompt_length, self._stop = tokenizer, prompt_length, stop

    def __call__(self, input_ids: Tensor, scores: Tensor, **options: object) -> Tensor:
        texts = self._tokenizer.batch_decode(input_ids[:, self._prompt_length :], skip_special_tokens=True)
        has_ended = [any(string in text for string in self._stop) for text in texts]
        return torch.tensor(has_ended, device=input_ids.device)


def _cut_answer(
    tokens: list[int], tokenizer: PreTrainedTokenizerBase, end_tokens: Sequence[int | None], stop: Sequence[str]
) -> Answer:
    """Cuts an answer before its first end-of-text token and before the token that completes a stop string."""
    tokens = tokens[: next((index for index, token in enumerate(tokens) if token in end_tokens), None)]
    text = _decode(tokenizer, tokens)
    end = min((start for start in map(text.find, stop) if start >= 0), default=None)
    while end is not None and any(string in _decode(tokenizer, tokens) for string in stop):
        tokens = tokens[:-1]
    return Answer(text[:end], tokens)


def _decode(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    assert isinstance(text, str)  # a list of texts is returned for a list of documents only
    return text


def _end_tokens(model: GenerativeModel) -> Sequence[int | None]:
    """Returns the tokens after which the model stops generating."""
    tokens: int | list[int] | None = model.generation_config.eos_token_id
    return tokens if isinstance(tokens, list) else [tokens]
