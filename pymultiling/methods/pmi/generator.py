"""Answers of a Hugging Face model: a chat model, a base model that continues texts, or a translation model."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict, cast

import torch
from torch import Tensor, nn
from transformers import StoppingCriteria

from pymultiling.data.added_tokens import encode_prompt
from pymultiling.data.batches import Batch, make_batches
from pymultiling.errors import TranslationError
from pymultiling.methods.pmi.cached_answers import Json, KeepAnswer
from pymultiling.methods.pmi.chat import strip_thinking, tokenise_messages
from pymultiling.methods.pmi.translation_models import encode_source, language_token
from pymultiling.methods.pmi.translation_requests import Request, abbreviate
from pymultiling.models.decoder import check_token_ids, model_device
from pymultiling.models.length_scaling import length_group
from pymultiling.models.modes import evaluation_mode
from pymultiling.models.positions import position_limit
from pymultiling.models.unwrap import unwrap
from pymultiling.tasks.generation import GREEDY, GenerativeModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_ANSWER_FACTOR = 4  # times max_new_tokens


class _TargetOptions(TypedDict, total=False):
    """Options of `generate` for a translation model with language tokens."""

    forced_bos_token_id: int


class Generator:
    """A Hugging Face model that generates answers greedily; an argument `by` of `translate`.

    A decoder gets the request as a chat message if its tokenizer has a chat template, and otherwise as the beginning
    of a text that continues with the answer, up to the end of the line. An encoder-decoder gets the text itself. It
    must be a translation model such as NLLB, M2M100 or Marian, and languages must have its own codes ("fra_Latn",
    "fr").

    A chat template is told to disable thinking, if it can. Thinking at the beginning of an answer, <think>...</think>,
    is removed. An answer whose thinking does not end is empty.

    An answer that does not end within `max_new_tokens` is generated again with twice as many, up to 4 times as many.
    An answer that does not end even then, or is empty, is returned with a warning and is not stored in the cache.

    Args:
        model: a Hugging Face model. The cache identifies it by its name and revision. A model without a name does not
            share answers with other models.
        tokenizer: the model's tokenizer.
        max_new_tokens: the token limit of an answer at first.
        batch_tokens: tokens of one batch, including padding and answers.

    Attributes:
        model: as the argument.
        tokenizer: as the argument.
        max_new_tokens: as the argument.
        batch_tokens: as the argument.

    Raises:
        ValueError: max_new_tokens is less than 1.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_new_tokens: int = 256,
        batch_tokens: int = 4096,
    ) -> None:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        model = unwrap(model)
        self.model, self.tokenizer = model, tokenizer
        self.max_new_tokens, self.batch_tokens = max_new_tokens, batch_tokens
        name: str = getattr(model, "name_or_path", "")
        self._name = name or type(model).__name__
        self._cache_name = name or f"unnamed {uuid.uuid4().hex}"
        self._generative_model = cast("GenerativeModel", model)
        self._is_translator = bool(self._generative_model.config.is_encoder_decoder)
        self._is_chat_model = not self._is_translator and bool(getattr(tokenizer, "chat_template", None))
        self._max_positions = position_limit(model)

    def asked(self, request: Request) -> Mapping[str, Json]:
        """Returns the key of a request in the cache: everything that determines the answer.

        Args:
            request: the request.

        Returns:
            The model, its revision, and what it is given.
        """
        identity: dict[str, Json] = {
            "model": self._cache_name,
            "revision": getattr(self.model.config, "_commit_hash", None),
        }
        if self._is_translator:
            return {**identity, "source": request.source, "target": request.target, "text": request.text}
        if self._is_chat_model:
            return {**identity, "messages": request.messages()}
        return {**identity, "prompt": request.plain()}

    @torch.no_grad()
    def answer(self, requests: Sequence[Request], keep: KeepAnswer) -> None:
        """Answers requests, batch by batch.

        Args:
            requests: the requests.
            keep: is called with the index of a request and its answer after every batch.

        Raises:
            TranslationError: a text exceeds the model's positions.
            ValueError: a translation model does not have a language, cannot be told it, or is asked for a paraphrase.
        """
        tokens = [self._encode_request(request) for request in requests]
        self._check_lengths(requests, tokens)
        cut_answers, empty_answers = 0, 0
        max_budget = MAX_ANSWER_FACTOR * self.max_new_tokens
        for target, places in self._group_by_target(requests).items():
            budget = self.max_new_tokens
            while places:
                unfinished: list[int] = []
                for batch in self._make_batches([tokens[place] for place in places], budget):
                    longest = 1 if self._is_translator else batch.input_ids.shape[1]
                    limit = budget if self._max_positions is None else min(budget, self._max_positions - longest)
                    for order, (answer, has_ended) in zip(batch.order, self._generate_batch(batch, limit, target)):
                        place = places[order]
                        prompt_length = 1 if self._is_translator else len(tokens[place])
                        has_room = self._max_positions is None or prompt_length + limit < self._max_positions
                        if not has_ended and limit < max_budget and has_room:
                            unfinished.append(place)
                            continue
                        cut_answers += not has_ended
                        empty_answers += not answer
                        keep(place, answer, whole=has_ended and bool(answer))
                places, budget = unfinished, min(2 * budget, max_budget)
        self._warn(cut_answers, empty_answers, len(requests))

    def _encode_request(self, request: Request) -> list[int]:
        if self._is_translator:
            return encode_source(self.tokenizer, request, self._name)
        if self._is_chat_model:
            return tokenise_messages(self.tokenizer, request.messages())
        return encode_prompt(self.tokenizer, request.plain())

    def _check_lengths(self, requests: Sequence[Request], tokens: Sequence[list[int]]) -> None:
        """Raises TranslationError if the model has no position for a text, or, in a decoder, for an answer to it."""
        for request, request_tokens in zip(requests, tokens):
            needed = len(request_tokens) + (0 if self._is_translator else 1)
            if self._max_positions is not None and needed > self._max_positions:
                raise TranslationError(
                    f"{abbreviate(request.text)} has {len(request_tokens)} tokens, too many for {self._name} with "
                    f"{self._max_positions} positions: give shorter texts or another model"
                )

    def _group_by_target(self, requests: Sequence[Request]) -> dict[str | None, list[int]]:
        """Returns the indices of the requests by target, because a batch of a translation model has one target."""
        groups: dict[str | None, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(request.target if self._is_translator else None, []).append(place)
        return groups

    def _make_batches(self, tokens: Sequence[list[int]], answer_tokens: int) -> Iterator[Batch]:
        return make_batches(
            tokens,
            self.batch_tokens,
            self._pad,
            left=not self._is_translator,
            extra_tokens=answer_tokens,
            group=length_group(self.model),
        )

    @property
    def _pad(self) -> int:
        candidates = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0
        return next(token for token in candidates if token is not None)

    @property
    def _end_tokens(self) -> list[int]:
        """The tokens that end an answer."""
        configured: int | list[int] | None = self._generative_model.generation_config.eos_token_id
        tokens = configured if isinstance(configured, list) else [configured]
        return [token for token in dict.fromkeys([*tokens, self.tokenizer.eos_token_id]) if token is not None]

    def _generate_batch(self, batch: Batch, limit: int, target: str | None) -> list[tuple[str, bool]]:
        """Returns the answer of every row, and whether it ends within `limit` tokens."""
        device = model_device(self.model)
        check_token_ids(self.model, batch.input_ids)
        start = 1 if self._is_translator else batch.input_ids.shape[1]
        options: _TargetOptions = {}
        if target is not None and hasattr(self.tokenizer, "src_lang"):
            options["forced_bos_token_id"] = language_token(self.tokenizer, target, self._name)
            start = 2  # after the decoder's first token and the language
        ends_with_line = not (self._is_translator or self._is_chat_model)
        with evaluation_mode(self.model):
            output = self._generative_model.generate(
                input_ids=batch.input_ids.to(device),
                attention_mask=batch.attention_mask.to(device),
                max_new_tokens=limit,
                pad_token_id=self._pad,
                eos_token_id=self._end_tokens or None,
                forced_eos_token_id=None,  # with it, an answer that is cut would look complete
                stopping_criteria=[_EndOfLine(self.tokenizer, start)] if ends_with_line else None,
                **GREEDY,
                **options,
            )
        return [self._decode_answer(tokens, ends_with_line) for tokens in output[:, start:].tolist()]

    def _decode_answer(self, tokens: list[int], ends_with_line: bool) -> tuple[str, bool]:
        end_tokens = self._end_tokens
        end = next((index for index, token in enumerate(tokens) if token in end_tokens), None)
        text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
        assert isinstance(text, str)  # a list of texts is returned for a list of documents only
        text = text.lstrip()
        has_ended = end is not None or (ends_with_line and "\n" in text)
        if self._is_chat_model:
            text, _ = strip_thinking(text)
        if ends_with_line:
            text = text.partition("\n")[0]
        return text.rstrip(), has_ended

    def _warn(self, cut_answers: int, empty_answers: int, total: int) -> None:
        if cut_answers:
            limit = f"{MAX_ANSWER_FACTOR * self.max_new_tokens} tokens"
            limit += "" if self._max_positions is None else f", or within the model's {self._max_positions} positions"
            warnings.warn(
                f"{self._name}: {cut_answers} of {total} answers do not end within {limit}, and are cut there",
                stacklevel=3,
            )
        if empty_answers:
            warnings.warn(f"{self._name}: {empty_answers} of {total} answers are empty", stacklevel=3)


class _EndOfLine(StoppingCriteria):
    """Ends a row after its first line that is not empty."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, start: int) -> None:
        self._tokenizer, self._start = tokenizer, start

    def __call__(self, input_ids: Tensor, scores: Tensor, **options: object) -> Tensor:
        texts = self._tokenizer.batch_decode(input_ids[:, self._start :], skip_special_tokens=True)
        return torch.tensor(["\n" in text.lstrip() for text in texts], device=input_ids.device)
