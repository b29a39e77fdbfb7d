"""Answers from a Hugging Face model: one that is talked to, one that continues texts, or a translation model."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import StoppingCriteria

from pymultiling.data.batches import Batch, make_batches
from pymultiling.errors import TranslationError
from pymultiling.methods.pmi.chat import message_tokens, without_thinking
from pymultiling.methods.pmi.translation_models import encoded, language_token
from pymultiling.methods.pmi.translation_requests import Request, shortly
from pymultiling.models.decoder import evaluation_mode, model_device
from pymultiling.tasks.generation import GREEDY

LONGEST_ANSWER = 4  # times max_new_tokens


class Generator:
    """A Hugging Face model, for `translate`'s `by`; its answers are greedy.

    A decoder is given the request as a message where its tokenizer has a chat template, else as the beginning of a text, whose
    next line is the answer. An encoder-decoder is given the text itself: it must be one for translation, such as NLLB, M2M100
    or Marian, and languages' codes must be its own ("fra_Latn", "fr").

    A chat template that can is told not to let the model think. What it thinks all the same before it answers,
    <think>...</think>, is taken off; without its end it is no answer.

    An answer that does not end within `max_new_tokens` is asked for again with twice as many, up to 4 times as many. One that does
    not end even so, or is empty, is warned of, returned, and not kept in the cache.

    Args:
        model: is known in the cache by its name and revision; one without a name has its answers to itself.
        tokenizer: its tokenizer.
        max_new_tokens: of an answer, at first.
        batch_tokens: tokens of one batch, padding and answers included.
    """

    def __init__(self, model: nn.Module, tokenizer, *, max_new_tokens: int = 256, batch_tokens: int = 4096):
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        self.model, self.tokenizer = model, tokenizer
        self.max_new_tokens, self.batch_tokens = max_new_tokens, batch_tokens
        name = getattr(model, "name_or_path", "")
        self._name = name or type(model).__name__
        self._known_as = name or f"unnamed {uuid.uuid4().hex}"
        self._translates = bool(model.config.is_encoder_decoder)
        self._talks = not self._translates and bool(getattr(tokenizer, "chat_template", None))
        self._room = getattr(model.config, "max_position_embeddings", None)

    def asked(self, request: Request) -> dict:
        """What decides an answer: who is asked, and what."""
        who = {"model": self._known_as, "revision": getattr(self.model.config, "_commit_hash", None)}
        if self._translates:
            return {**who, "source": request.source, "target": request.target, "text": request.text}
        return {**who, "messages": request.messages()} if self._talks else {**who, "prompt": request.plain()}

    @torch.no_grad()
    def answer(self, requests: Sequence[Request], keep: Callable[..., None]) -> None:
        """Answers all, batch by batch; `keep` is called after each with the requests' places and answers.

        Raises:
            TranslationError: a text has no room in the model.
            ValueError: a translation model does not have a language, cannot be told it, or is asked for something else.
        """
        tokens = [self._encoded(request) for request in requests]
        self._check_room(requests, tokens)
        cut, empty = 0, 0
        for target, places in self._by_target(requests).items():
            budget, most = self.max_new_tokens, LONGEST_ANSWER * self.max_new_tokens
            while places:
                again = []
                for batch in self._batches([tokens[place] for place in places], budget):
                    longest = 1 if self._translates else batch.input_ids.shape[1]
                    new = budget if self._room is None else min(budget, self._room - longest)
                    for row, (answer, ended) in zip(batch.order, self._generated(batch, new, target)):
                        place = places[row]
                        taken = 1 if self._translates else len(tokens[place])
                        if not ended and new < most and (self._room is None or taken + new < self._room):
                            again.append(place)
                            continue
                        cut += not ended
                        empty += not answer
                        keep(place, answer, whole=ended and bool(answer))
                places, budget = again, min(2 * budget, most)
        self._warn(cut, empty, len(requests))

    def _encoded(self, request: Request) -> list[int]:
        if self._translates:
            return encoded(self.tokenizer, request, self._name)
        if not self._talks:
            return self.tokenizer(request.plain(), verbose=False)["input_ids"]
        return message_tokens(self.tokenizer, request.messages())

    def _check_room(self, requests: Sequence[Request], tokens: Sequence[list[int]]) -> None:
        for request, one in zip(requests, tokens):
            if self._room is not None and len(one) + (not self._translates) > self._room:
                raise TranslationError(
                    f"{shortly(request.text)} makes {len(one)} tokens, and {self._name} has {self._room} positions"
                )

    def _by_target(self, requests: Sequence[Request]) -> dict[str | None, list[int]]:
        """Places of the requests; a batch of a translation model has one target."""
        found: dict[str | None, list[int]] = {}
        for place, request in enumerate(requests):
            found.setdefault(request.target if self._translates else None, []).append(place)
        return found

    def _batches(self, tokens: Sequence[list[int]], more: int):
        return make_batches(tokens, self.batch_tokens, self._pad, left=not self._translates, extra_tokens=more)

    @property
    def _pad(self) -> int:
        known = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0
        return next(token for token in known if token is not None)

    @property
    def _ends(self) -> list[int]:
        """Tokens that end an answer."""
        given = self.model.generation_config.eos_token_id
        given = given if isinstance(given, list) else [given]
        return [token for token in dict.fromkeys([*given, self.tokenizer.eos_token_id]) if token is not None]

    def _generated(self, batch: Batch, new: int, target: str | None) -> list[tuple[str, bool]]:
        """Of every row the answer, and whether it came to its end."""
        device, start = model_device(self.model), 1 if self._translates else batch.input_ids.shape[1]
        options = {}
        if target is not None and hasattr(self.tokenizer, "src_lang"):
            options["forced_bos_token_id"] = language_token(self.tokenizer, target, self._name)
            start = 2  # the decoder's first token, and the language
        line = not (self._translates or self._talks)
        with evaluation_mode(self.model):
            output = self.model.generate(
                input_ids=batch.input_ids.to(device),
                attention_mask=batch.attention_mask.to(device),
                max_new_tokens=new,
                pad_token_id=self._pad,
                eos_token_id=self._ends or None,
                forced_eos_token_id=None,  # would make an answer that is cut look like a whole one
                stopping_criteria=[_LineEnds(self.tokenizer, start)] if line else None,
                **GREEDY,
                **options,
            )
        return [self._answer(tokens, line) for tokens in output[:, start:].tolist()]

    def _answer(self, tokens: list[int], line: bool) -> tuple[str, bool]:
        ends = self._ends
        end = next((place for place, token in enumerate(tokens) if token in ends), None)
        text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True).lstrip()
        ended = end is not None or (line and "\n" in text)
        if self._talks:
            text, _ = without_thinking(text)
        return (text.partition("\n")[0] if line else text).rstrip(), ended

    def _warn(self, cut: int, empty: int, total: int) -> None:
        if cut:
            most = f"{LONGEST_ANSWER * self.max_new_tokens} tokens"
            room = "" if self._room is None else f", or within the model's {self._room} positions"
            warnings.warn(f"{self._name}: {cut} of {total} answers do not end within {most}{room}, and are cut there")
        if empty:
            warnings.warn(f"{self._name}: {empty} of {total} answers are empty")


class _LineEnds(StoppingCriteria):
    """Ends a row with its first line that has something in it."""

    def __init__(self, tokenizer, start: int):
        self._tokenizer, self._start = tokenizer, start

    def __call__(self, input_ids: Tensor, scores: Tensor, **options) -> Tensor:
        texts = self._tokenizer.batch_decode(input_ids[:, self._start :], skip_special_tokens=True)
        return torch.tensor(["\n" in text.lstrip() for text in texts], device=input_ids.device)
