"""Answers to requests, from a cache or from a model or server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Protocol, TypeAlias

from pymultiling.errors import TranslationError
from pymultiling.methods.pmi.cache import Cache
from pymultiling.methods.pmi.translation_requests import Request

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"


class KeepAnswer(Protocol):
    """Called with an answer as soon as it arrives."""

    def __call__(self, place: int, answer: str, whole: bool = True) -> None:
        """Accepts an answer.

        Args:
            place: the index of the request.
            answer: the answer.
            whole: False: the answer is incomplete or empty, and is not stored in the cache.
        """


class Responder(Protocol):
    """A model or server that answers requests: a `Server`, a `Generator`, or another object with these methods."""

    def asked(self, request: Request) -> Mapping[str, Json]:
        """Returns everything that determines the answer, such as model and prompt. It is the key in the cache."""
        ...

    def answer(self, requests: Sequence[Request], keep: KeepAnswer) -> None:
        """Answers requests.

        Args:
            requests: the requests.
            keep: is called with each answer.

        Raises:
            TranslationError: a request has no answer.
        """
        ...


class Progress(Protocol):
    """A progress bar."""

    def update(self, n: int) -> object:
        """Advances by n."""
        ...


class CachedResponder:
    """Returns the answers to requests, and asks for each answer only once.

    Args:
        by: the model or server.
        cache: the cache in which answers are stored as they arrive.
        bar: a progress bar of the number of requests.

    Raises:
        TranslationError: as raised by `by`, followed by the number of stored answers.
    """

    def __init__(self, by: Responder, cache: Cache, bar: Progress) -> None:
        self._by, self._cache, self._bar = by, cache, bar
        self._lock, self._stored = Lock(), 0

    def __call__(self, requests: Sequence[Request]) -> list[str]:
        """Returns the answers, in the order of the requests."""
        questions = [json.dumps(self._by.asked(request), sort_keys=True) for request in requests]
        indices: dict[str, list[int]] = {}
        for index, question in enumerate(questions):
            indices.setdefault(question, []).append(index)
        answers = {question: answer for question in indices if (answer := self._cache.get(question)) is not None}
        self._stored += len(answers)
        self._bar.update(sum(len(indices[question]) for question in answers))
        missing = [question for question in indices if question not in answers]

        def keep(place: int, answer: str, whole: bool = True) -> None:
            question = missing[place]
            if whole:
                self._cache.add(question, answer)
            with self._lock:
                answers[question] = answer
                self._stored += whole
                self._bar.update(len(indices[question]))

        if missing:
            try:
                self._by.answer([requests[indices[question][0]] for question in missing], keep)
            except TranslationError as error:
                raise TranslationError(f"{error}{self._describe_stored()}") from error
        return [answers[question] for question in questions]

    def _describe_stored(self) -> str:
        if self._cache.path is not None:
            return f"; {self._stored:,} answers are stored in {self._cache.path}: repeat the call to get the rest"
        return f"; {self._stored:,} answers are lost: give cache=, a file that stores them" if self._stored else ""
