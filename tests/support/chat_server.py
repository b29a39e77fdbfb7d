"""A server in the OpenAI protocol on this machine, which misbehaves as a test says."""

from __future__ import annotations

import json
import socket
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WELL, DROPPED, CUT_OFF, LIMITED, BROKEN, REFUSED = "well", "dropped", "cut off", "limited", "broken", "refused"
NO_JSON, NO_CHOICES, EMPTY, FILTERED, OLD_NAME = "no JSON", "no choices", "empty", "filtered", "old name"
STATUS = {LIMITED: 429, BROKEN: 500, REFUSED: 401, OLD_NAME: 400}
MESSAGES = {OLD_NAME: "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."}


def right(prompt: str) -> str:
    """The server's answer to a prompt: another one for another prompt, of three words and those of its last line."""
    return f"answer {zlib.crc32(prompt.encode())} to {prompt.splitlines()[-1]}"


class ChatServer:
    """Use as a context manager.

    behave: what becomes of a request, by its prompt and the number of requests with it so far.

    Attributes:
        url: for clients.
        asked: requests by prompt.
        delivered: complete right answers, sent to their last byte, by prompt.
        bodies: of all requests.
    """

    def __init__(self, behave: Callable[[str, int], str] = lambda prompt, before: WELL):
        self.behave = behave
        self.asked, self.delivered, self.bodies = Counter(), Counter(), []
        self.keys = set()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"chat": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._server.shutdown()
        self._server.server_close()

    def register(self, body: dict, key: str | None) -> tuple[str, str]:
        prompt = body["messages"][-1]["content"]
        with self._lock:
            before = self.asked[prompt]
            self.asked[prompt] += 1
            self.bodies.append(body)
            self.keys.add(key)
            return prompt, self.behave(prompt, before)

    def deliver(self, prompt: str, count: int) -> None:
        with self._lock:
            self.delivered[prompt] += count


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are sent apart: 40 ms each otherwise
    chat: ChatServer

    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self._send(404, {"error": {"message": f"nothing is at {self.path}"}})
        prompt, how = self.chat.register(body, self.headers["Authorization"])
        if how == DROPPED:
            return self._close()
        if how in STATUS:
            return self._send(STATUS[how], {"error": {"message": MESSAGES.get(how, f"it is {how}")}})
        room = body.get("max_tokens", body.get("max_completion_tokens"))
        words = right(prompt).split(" ")
        reason = "content_filter" if how == FILTERED else "stop" if len(words) <= room else "length"
        text = "" if how == EMPTY else " ".join(words[:room])
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        choices = [] if how == NO_CHOICES else [choice]
        whole = how == WELL and reason == "stop"
        if whole:  # before the client can have it, so that a test never counts too early
            self.chat.deliver(prompt, 1)
        try:
            self._send(200, {"id": "1", "object": "chat.completion", "created": 0, "choices": choices}, how)
        except OSError:
            if whole:
                self.chat.deliver(prompt, -1)

    def _send(self, status: int, body: dict, how: str = WELL) -> None:
        data = json.dumps(body).encode()
        if how == NO_JSON:
            data = data[: len(data) // 2]
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if how == CUT_OFF else data)
        if how == CUT_OFF:
            self._close()

    def _close(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
