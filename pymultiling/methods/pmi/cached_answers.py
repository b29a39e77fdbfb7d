"""Requests answered from a cache, or by whoever is asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Protocol

from pymultiling.errors import TranslationError
from pymultiling.methods.pmi.cache import Cache
from pymultiling.methods.pmi.translation_requests import Request


class Answers(Protocol):
    """Who is asked: a `Server`, a `Generator`, or anything else that has these."""

    def asked(self, request: Request) -> object:
        """What decides the answer, as JSON has it: who is asked, and what. Answers are kept under it."""

    def answer(self, requests: Sequence[Request], keep: Callable[..., None]) -> None:
        """Calls keep(place of a request, answer) as answers come; keep(place, answer, whole=False) for one not to be kept."""


class Asking:
    """Called with requests, gives their answers; a question that was answered is not asked again.

    Args:
        by: who is asked.
        cache: where answers are kept as they come.
        bar: is updated by the number of requests answered.

    Raises:
        TranslationError: that of `by`, with what was kept.
    """

    def __init__(self, by: Answers, cache: Cache, bar):
        self._by, self._cache, self._bar = by, cache, bar
        self._lock, self._kept = Lock(), 0

    def __call__(self, requests: Sequence[Request]) -> list[str]:
        questions = [json.dumps(self._by.asked(request), sort_keys=True) for request in requests]
        places: dict[str, list[int]] = {}
        for place, question in enumerate(questions):
            places.setdefault(question, []).append(place)
        answers = {question: answer for question in places if (answer := self._cache.get(question)) is not None}
        self._kept += len(answers)
        self._bar.update(sum(len(places[question]) for question in answers))
        missing = [question for question in places if question not in answers]

        def keep(place: int, answer: str, whole: bool = True) -> None:
            question = missing[place]
            if whole:
                self._cache.keep(question, answer)
            with self._lock:
                answers[question] = answer
                self._kept += whole
                self._bar.update(len(places[question]))

        if missing:
            try:
                self._by.answer([requests[places[question][0]] for question in missing], keep)
            except TranslationError as error:
                raise TranslationError(f"{error}{self._told()}") from error
        return [answers[question] for question in questions]

    def _told(self) -> str:
        if self._cache.path is not None:
            return f"; {self._kept:,} answers are kept in {self._cache.path}, and the same call again asks only for the rest"
        return f"; {self._kept:,} answers are lost: give cache=, a file that keeps them" if self._kept else ""
