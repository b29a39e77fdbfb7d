"""Answers from a server with the OpenAI protocol, requested by several threads."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, cast

from pymultiling.errors import BackendUnavailable, TranslationError, error_text, type_and_text
from pymultiling.methods.pmi.cached_answers import Json, KeepAnswer
from pymultiling.methods.pmi.chat import strip_thinking
from pymultiling.methods.pmi.translation_requests import Request, abbreviate

if TYPE_CHECKING:
    from openai._legacy_response import LegacyAPIResponse
    from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

FIRST_DELAY, MAX_DELAY = 0.5, 8.0  # seconds before a retry; the delay doubles each time, as in the client itself
MAX_ANSWER_FACTOR = 8  # times max_tokens


class Server:
    """A model behind an OpenAI-compatible server; an argument `by` of `translate`.

    Dropped connections and the status codes 408, 409, 429 and 500 or more are retried by the client of the package
    openai, after the delay that the server asks for, or a growing one. Responses that are not chat completions are
    retried here. An answer that is cut by the token limit is requested again with twice the limit, up to 8 times
    `max_tokens`; a cut answer is never accepted.

    Thinking at the beginning of an answer, <think>...</think>, is removed. An answer whose thinking does not end is not
    accepted.

    Args:
        model: the name of the model on the server.
        base_url: the URL of the server up to /v1; None: OPENAI_BASE_URL, or else OpenAI's server.
        api_key: the key; None: OPENAI_API_KEY. A server other than OpenAI's may need no key.
        retries: how often a request is repeated in total.
        timeout: how many seconds to wait for data from the server.
        workers: the number of requests at a time.
        max_tokens: the token limit of an answer at first.
        temperature: the sampling temperature; 0: no sampling. None: it is not sent, for models that do not accept it.

    Attributes:
        model: as the argument.
        retries: as the argument.
        workers: as the argument.
        max_tokens: as the argument.
        temperature: as the argument.

    Raises:
        BackendUnavailable: the package openai is not installed.
        ValueError: there is no key, or a number is out of range.
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
    ) -> None:
        try:
            import openai
        except ImportError:
            raise BackendUnavailable(
                "the package openai, which sends requests to servers, is not installed: pip install 'pymultiling[pmi]'"
            ) from None
        if retries < 0 or workers < 1 or max_tokens < 1:
            raise ValueError(
                f"retries must be 0 or more, workers and max_tokens 1 or more: got {retries}, {workers}, {max_tokens}"
            )
        custom_url = base_url or os.environ.get("OPENAI_BASE_URL")
        key = api_key or os.environ.get("OPENAI_API_KEY") or ("none" if custom_url else None)
        if key is None:
            raise ValueError(
                "OpenAI's server needs a key: pass api_key= or set OPENAI_API_KEY, or give base_url= of another server"
            )
        self.model, self.retries, self.workers = model, retries, workers
        self.max_tokens, self.temperature = max_tokens, temperature
        self._client = openai.OpenAI(base_url=base_url, api_key=key, timeout=timeout)
        self._limit_name = "max_tokens"  # the parameter of most servers; OpenAI's newer models have another

    @property
    def url(self) -> str:
        """The URL of the server."""
        return str(self._client.base_url)

    def asked(self, request: Request) -> Mapping[str, Json]:
        """Returns everything that determines the answer to a request, which is its key in the cache.

        Args:
            request: the request.

        Returns:
            The server, the model, the temperature and the messages.
        """
        return {
            "server": self.url,
            "model": self.model,
            "temperature": self.temperature,
            "messages": request.messages(),
        }

    def answer(self, requests: Sequence[Request], keep: KeepAnswer) -> None:
        """Answers requests.

        If a request fails or the user interrupts, requests that were sent already are still waited for.

        Args:
            requests: the requests.
            keep: is called with the index of a request and its answer as soon as the answer arrives, from any thread.

        Raises:
            TranslationError: the server does not answer; or, after all other requests were answered, some have no
                complete answer.
        """

        def request_answer(place: int) -> None:
            keep(place, self._answer_request(requests[place]))

        pool = ThreadPoolExecutor(self.workers)
        try:
            futures = [pool.submit(request_answer, place) for place in range(len(requests))]
            for future in as_completed(futures):
                error = future.exception()
                if error is not None and not isinstance(error, _IncompleteAnswer):
                    raise error  # requests that were not sent yet are cancelled
        finally:
            pool.shutdown(cancel_futures=True)
        failures = [str(future.exception()) for future in futures if future.exception()]
        if failures:
            more = f"; {len(failures) - 1:,} more texts have no complete answer" if len(failures) > 1 else ""
            raise TranslationError(failures[0] + more)

    def _answer_request(self, request: Request) -> str:
        """Returns the answer to a request.

        Raises:
            _IncompleteAnswer: the server answers, but not with a complete text.
            TranslationError: the server does not answer, or returns something else than chat completions.
        """
        retries_left, limit, text = self.retries, self.max_tokens, abbreviate(request.text)
        max_limit = MAX_ANSWER_FACTOR * self.max_tokens
        while True:
            response = self._send(request, limit, retries_left)
            retries_left -= response.retries_taken
            try:
                choice = json.loads(response.content)["choices"][0]
                content, reason = choice["message"]["content"] or "", choice.get("finish_reason")
                content = (
                    content.strip().encode("utf-8", "replace").decode()
                )  # JSON can escape half of a surrogate pair
                answer, thinking_ended = strip_thinking(content)
            except (ValueError, LookupError, TypeError, AttributeError):
                if retries_left == 0:
                    raise TranslationError(
                        f"{self._label} does not return a chat completion for {text}, after {self.retries} retries: "
                        f"{abbreviate(response.text)}; check that {self.url} is the URL of a chat server up to /v1"
                    ) from None
                time.sleep(min(MAX_DELAY, FIRST_DELAY * 2 ** (self.retries - retries_left)))
                retries_left -= 1
                continue
            if reason == "length" and limit < max_limit:
                limit = min(2 * limit, max_limit)
            elif reason == "length":
                raise _IncompleteAnswer(
                    f"the answer of {self._label} to {text} does not end within {limit:,} tokens: raise max_tokens"
                )
            elif reason == "content_filter":
                raise _IncompleteAnswer(
                    f"{self._label} withholds its answer to {text} (content_filter): leave the text out, or give "
                    "another model"
                )
            elif not thinking_ended:
                raise _IncompleteAnswer(
                    f"the thinking of {self._label} about {text} does not end: switch its thinking off, or give "
                    "another model"
                )
            elif not answer:
                raise _IncompleteAnswer(
                    f"{self._label} gives an empty answer to {text}: leave the text out, or give another model"
                )
            else:
                return answer

    def _send(self, request: Request, limit: int, retries: int) -> LegacyAPIResponse[ChatCompletion]:
        """Sends a request and returns the response, whose content was not checked.

        Args:
            request: the request.
            limit: the token limit of the answer.
            retries: how often the client may repeat the request.

        Raises:
            TranslationError: the server does not answer, or refuses.
        """
        import openai

        client = self._client.with_options(max_retries=retries).chat.completions.with_raw_response
        limit_name = self._limit_name
        # The client's overloads have no type for options that are sent under a name known at run time.
        options: dict[str, Any] = {limit_name: limit}
        if self.temperature is not None:
            options["temperature"] = self.temperature
        messages = cast("list[ChatCompletionMessageParam]", request.messages())
        try:
            return client.create(model=self.model, messages=messages, **options)
        except openai.OpenAIError as error:
            if limit_name == "max_tokens" and "max_completion_tokens" in str(error):
                self._limit_name = "max_completion_tokens"
                return self._send(request, limit, retries)
            raise TranslationError(
                f"{self._label} does not answer {abbreviate(request.text)} ({_error_reason(error)}); check the URL, "
                "the key, the model's name and the server's limits"
            ) from error

    @property
    def _label(self) -> str:
        return f"{self.model} at {self.url}"


class _IncompleteAnswer(TranslationError):
    """One text has no complete answer; the other texts may have one."""


def _error_reason(error: Exception) -> str:
    """Returns the HTTP status, or else the kind of the error, and its message, if it has one, in one line."""
    # Where there is a cause, it is an error of the network, which says more than the client's error.
    source = error if error.__cause__ is None else error.__cause__
    status = getattr(error, "status_code", None)
    if status is None:
        return type_and_text(source)[:300]
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, dict) else None
    return f"{status}: {' '.join(str(message or error_text(source)).split())[:300]}"
