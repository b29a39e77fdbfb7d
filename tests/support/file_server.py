"""A local server of files that notes its requests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class FileServer:
    """What a running server answers, and what it was asked for.

    Attributes:
        url: its address.
        files: {path: content}; it answers 404 to other paths.
        status: the status with which it answers every request. None: it sends the files.
        requests: "METHOD path" of every request.
    """

    url: str
    files: Mapping[str, bytes]
    status: int | None = None
    requests: list[str] = field(default_factory=list)

    def count(self, method: str) -> int:
        """Returns how many requests had this method."""
        return sum(request.startswith(method) for request in self.requests)


@contextmanager
def file_server(files: Mapping[str, bytes]) -> Iterator[FileServer]:
    """Serves files on this machine, parts of them too, until the end of the block."""

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self.wfile.write(self._answer())

        def _answer(self) -> bytes:
            server.requests.append(f"{self.command} {self.path}")
            content = server.files.get(self.path.lstrip("/").partition("?")[0])
            status = server.status or (404 if content is None else 200)
            if status != 200 or content is None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return b""
            if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                first, last = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
                content = content[first : last + 1]
            else:
                self.send_response(200)
                self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            return content

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as http_server:
        server = FileServer(f"http://127.0.0.1:{http_server.server_port}", files)
        Thread(target=http_server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            http_server.shutdown()
