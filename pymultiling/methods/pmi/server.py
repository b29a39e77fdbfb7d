"""Answers from any server that speaks the OpenAI protocol, asked by several threads."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from pymultiling.errors import BackendUnavailable, TranslationError
from pymultiling.methods.pmi.chat import without_thinking
from pymultiling.methods.pmi.translation_requests import Request, shortly

FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds before asking again, doubled each time, as the client itself does
LONGEST_ANSWER = 8  # times max_tokens


class Server:
    """A model behind an OpenAI-compatible server; for `translate`'s `by`.

    Dropped connections and the status codes 408, 409, 429 and 500 and above are asked again by the client of the package openai,
    after the time that the server asks for or a growing one; what is no chat completion is asked again here. An answer that
    ends for lack of room is asked for with twice the room, up to 8 times `max_tokens`, and is never taken for a whole one.

    What a model thinks before it answers, <think>...</think>, is taken off; without its end it is no answer.

    Args:
        model: its name there.
        base_url: of the server, up to /v1; None: OpenAI's, or what OPENAI_BASE_URL says.
        api_key: None: what OPENAI_API_KEY says; a server of one's own may need none.
        retries: how often a request is asked again in all.
        timeout: seconds that the server may be silent.
        workers: requests at a time.
        max_tokens: of an answer, at first.
        temperature: of sampling; 0: none. None: not sent, for models that refuse it.

    Raises:
        BackendUnavailable: the package openai is not installed.
        ValueError: there is no key; a number is out of range.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        retries: int = 8,
        timeout: float = 120,
        workers: int = 8,
        max_tokens: int = 1024,
        temperature: float | None = 0.0,
    ):
        try:
            import openai
        except ImportError:
            raise BackendUnavailable(
                "servers are asked by the package openai: pip install 'pymultiling[pmi]'"
            ) from None
        if retries < 0 or workers < 1 or max_tokens < 1:
            raise ValueError(
                f"retries must be 0 or more, workers and max_tokens 1: got {retries}, {workers}, {max_tokens}"
            )
        own = base_url or os.environ.get("OPENAI_BASE_URL")
        key = api_key or os.environ.get("OPENAI_API_KEY") or ("none" if own else None)
        if key is None:
            raise ValueError(
                "OpenAI's server needs a key: pass api_key= or set OPENAI_API_KEY, or give base_url= of another"
            )
        self.model, self.retries, self.workers = model, retries, workers
        self.max_tokens, self.temperature = max_tokens, temperature
        self._client = openai.OpenAI(base_url=base_url, api_key=key, timeout=timeout)
        self._room = "max_tokens"  # as servers call it, OpenAI's newer models apart

    @property
    def url(self) -> str:
        return str(self._client.base_url)

    def asked(self, request: Request) -> dict:
        """What decides an answer: who is asked, and what."""
        return {
            "server": self.url,
            "model": self.model,
            "temperature": self.temperature,
            "messages": request.messages(),
        }

    def answer(self, requests: Sequence[Request], keep: Callable[[int, str], None]) -> None:
        """Asks all; `keep` is called, by any thread, with a request's place and its answer as soon as it is there.

        Requests under way are waited for also when another one fails, or the user interrupts.

        Raises:
            TranslationError: the server does not answer; or a text got no whole answer, after all others were asked.
        """

        def ask(place: int) -> None:
            keep(place, self._ask(requests[place]))

        pool = ThreadPoolExecutor(self.workers)
        try:
            futures = [pool.submit(ask, place) for place in range(len(requests))]
            for future in as_completed(futures):
                if not isinstance(future.exception(), (_NoWholeAnswer, type(None))):
                    future.result()
        finally:
            pool.shutdown(cancel_futures=True)
        without = [str(future.exception()) for future in futures if future.exception()]
        if without:
            raise TranslationError(
                without[0] + (f"; so it is for {len(without) - 1:,} more" if len(without) > 1 else "")
            )

    def _ask(self, request: Request) -> str:
        left, room, text = self.retries, self.max_tokens, shortly(request.text)
        while True:
            response = self._response(request, room, left)
            left -= response.retries_taken
            try:
                choice = json.loads(response.content)["choices"][0]
                answer, reason = choice["message"]["content"] or "", choice.get("finish_reason")
                answer = answer.strip().encode("utf-8", "replace").decode()  # JSON can escape half of a surrogate pair
                answer, thought = without_thinking(answer)
            except (ValueError, LookupError, TypeError, AttributeError):
                if left == 0:
                    raise TranslationError(
                        f"{self._who} answers to {text} what is no chat completion, after {self.retries} retries: "
                        f"{shortly(response.text)}"
                    ) from None
                time.sleep(min(LONGEST_WAIT, FIRST_WAIT * 2 ** (self.retries - left)))
                left -= 1
                continue
            if reason == "length" and room < LONGEST_ANSWER * self.max_tokens:
                room = min(2 * room, LONGEST_ANSWER * self.max_tokens)
            elif reason == "length":
                raise _NoWholeAnswer(f"{self._who} does not come to an end within {room:,} tokens for {text}")
            elif reason == "content_filter":
                raise _NoWholeAnswer(f"{self._who} holds back its answer to {text} (content_filter)")
            elif not thought:
                raise _NoWholeAnswer(f"{self._who} does not come to the end of its thinking for {text}")
            elif not answer:
                raise _NoWholeAnswer(f"{self._who} gives an empty answer to {text}")
            else:
                return answer

    def _response(self, request: Request, room: int, retries: int):
        """The server's response; its text has not been looked at."""
        import openai

        client = self._client.with_options(max_retries=retries).chat.completions.with_raw_response
        options = {} if self.temperature is None else {"temperature": self.temperature}
        name = self._room
        try:
            return client.create(model=self.model, messages=request.messages(), **options, **{name: room})
        except openai.OpenAIError as error:
            if name == "max_tokens" and "max_completion_tokens" in str(error):
                self._room = "max_completion_tokens"
                return self._response(request, room, retries)
            raise TranslationError(f"{self._who} does not answer {shortly(request.text)} ({_reason(error)})") from error

    @property
    def _who(self) -> str:
        return f"{self.model} at {self.url}"


class _NoWholeAnswer(TranslationError):
    """A text's own misfortune: others may be answered."""


def _reason(error: Exception) -> str:
    status, cause = getattr(error, "status_code", None), error.__cause__
    body = getattr(error, "body", None)
    told = body.get("message") if isinstance(body, dict) else None
    told = " ".join(str(told or cause or error).split())
    return f"{status}: {told[:300]}" if status else f"{type(cause or error).__name__}: {told[:300]}"
