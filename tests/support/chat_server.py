"""A local server with the OpenAI protocol whose failures a test chooses."""

from __future__ import annotations

import json
import socket
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

# What the server can do with a request: the values that `ChatServer.behave` returns.
ANSWERED, DROPPED, CUT_OFF, LIMITED, BROKEN, REFUSED = "answered", "dropped", "cut off", "limited", "broken", "refused"
NO_JSON, NO_CHOICES, EMPTY, FILTERED, OLD_NAME = "no JSON", "no choices", "empty", "filtered", "old name"
# {value: HTTP status of the response} and {value: message of the response}
STATUS = {LIMITED: 429, BROKEN: 500, REFUSED: 401, OLD_NAME: 400}
MESSAGES = {OLD_NAME: "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."}


def expected_answer(prompt: str) -> str:
    """Returns the complete answer to a prompt: three words with the prompt's checksum, and its last line."""
    return f"answer {zlib.crc32(prompt.encode())} to {prompt.splitlines()[-1]}"


class ChatServer:
    """A server that runs inside a `with` block.

    Attributes:
        behave: called with the prompt of a request and the number of earlier requests with this prompt; returns what
            the server does with the request.
        url: the base URL for clients.
        asked: the number of requests by prompt.
        delivered: the number of complete answers, sent to their last byte, by prompt.
        bodies: the bodies of all requests.
        keys: the values of the header Authorization.
    """

    def __init__(self, behave: Callable[[str, int], str] = lambda prompt, before: ANSWERED):
        self.behave = behave
        self.asked: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.keys: set[str | None] = set()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"chat": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._server.shutdown()
        self._server.server_close()

    def register(self, body: dict, key: str | None) -> tuple[str, str]:
        """Counts a request. Returns its prompt and what the server does with it.

        key: the value of the header Authorization.
        """
        prompt = body["messages"][-1]["content"]
        with self._lock:
            before = self.asked[prompt]
            self.asked[prompt] += 1
            self.bodies.append(body)
            self.keys.add(key)
            return prompt, self.behave(prompt, before)

    def count_delivered(self, prompt: str, count: int) -> None:
        """Adds `count`, which may be negative, to the number of complete answers to a prompt."""
        with self._lock:
            self.delivered[prompt] += count


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the head and the body are sent separately, which takes 40 ms otherwise
    chat: ChatServer

    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self._send(404, {"error": {"message": f"nothing is at {self.path}"}})
        prompt, outcome = self.chat.register(body, self.headers["Authorization"])
        if outcome == DROPPED:
            return self._close()
        if outcome in STATUS:
            return self._send(STATUS[outcome], {"error": {"message": MESSAGES.get(outcome, f"it is {outcome}")}})
        limit = body.get("max_tokens", body.get("max_completion_tokens"))
        words = expected_answer(prompt).split(" ")
        reason = "content_filter" if outcome == FILTERED else "stop" if len(words) <= limit else "length"
        text = "" if outcome == EMPTY else " ".join(words[:limit])
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        choices = [] if outcome == NO_CHOICES else [choice]
        is_complete = outcome == ANSWERED and reason == "stop"
        if is_complete:  # before the client has it, so that a test never counts too few
            self.chat.count_delivered(prompt, 1)
        try:
            self._send(200, {"id": "1", "object": "chat.completion", "created": 0, "choices": choices}, outcome)
        except OSError:
            if is_complete:
                self.chat.count_delivered(prompt, -1)

    def _send(self, status: int, body: dict, outcome: str = ANSWERED) -> None:
        data = json.dumps(body).encode()
        if outcome == NO_JSON:
            data = data[: len(data) // 2]
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if outcome == CUT_OFF else data)
        if outcome == CUT_OFF:
            self._close()

    def _close(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
