"""Files that a path, a URL or a pattern of either names, on any file system that fsspec knows."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from pymultiling.data.read_errors import wrap_read_errors
from pymultiling.data.text_lines import ending
from pymultiling.errors import CorpusError

ENDS = 1 << 16  # bytes at either end of a file that its fingerprint covers
# A remote file of at most SMALL bytes is fetched once and kept. So many of them are kept, the ones used last.
SMALL, KEPT = 1 << 18, 64

# {URL: its file} inside `shared_files`.
_shared: ContextVar[dict[str, StoredFile] | None] = ContextVar("_shared", default=None)


class StoredFile:
    """A file on some file system.

    Attributes:
        filesystem: the file system of fsspec.
        path: the file's path there.
        name: the path or URL, for messages.
        plain_path: the path without the query of a URL, such as ?download=true. Its ending tells the format.
        is_remote: whether a URL named it. What is known of a remote file is not fetched again.
    """

    def __init__(self, filesystem: fsspec.AbstractFileSystem, path: str, name: str):
        self.filesystem, self.path, self.name = filesystem, path, name
        self.is_remote = "://" in name
        self.plain_path = path.partition("?")[0] if path.startswith(("http://", "https://")) else path
        self._known_info: dict[str, Any] | None = None
        self._known_fingerprint = ""

    def check(self) -> None:
        """Raises CorpusError if there is no such file, or its server cannot be reached."""
        with wrap_read_errors(self.name):
            if self._info()["type"] != "file":
                raise CorpusError(f"{self.name}: no such file; check the path")

    @property
    def size(self) -> int | None:
        """Size in bytes, or None if the file system does not tell.

        Raises:
            CorpusError: the file does not exist or its server cannot be reached.
        """
        with wrap_read_errors(self.name):
            size: int | None = self._info()["size"]
            return size

    @contextmanager
    def open(self, block: int | None = None) -> Iterator[BinaryIO]:
        """Opens the file in binary mode. block: bytes that are fetched at a time; None: what the file system prefers.

        Raises:
            CorpusError: the file does not exist, or opening it or the block raises an exception.
            BackendUnavailable: a package for its file system is not installed.
        """
        with wrap_read_errors(self.name):
            content = _small_content(self) if self.is_remote else None
            if content is not None:
                yield io.BytesIO(content)
                return
            try:
                with self.filesystem.open(self.path, "rb", block_size=block) as raw:
                    yield raw
            except FileNotFoundError:
                if self.is_remote:
                    raise
                raise CorpusError(f"{self.name}: no such file (any more); put it back, or give another one") from None

    def fingerprint(self) -> str:
        """Returns a hash of the file's size and of its first and last 64 KiB.

        If a server does not tell the size, or cannot read from a position, the last 64 KiB are left out.

        Raises:
            CorpusError: the file does not exist or cannot be read.
        """
        if self._known_fingerprint:
            return self._known_fingerprint
        with self.open(ENDS) as raw:
            size = self.size
            digest = hashlib.blake2b(str(size).encode(), digest_size=16)
            digest.update(_read_bytes(raw, ENDS))
            if size is not None:
                with suppress(ValueError):  # raised by seek if the server does not support ranges
                    raw.seek(max(0, size - ENDS))
                    digest.update(_read_bytes(raw, ENDS))
        if self.is_remote:
            self._known_fingerprint = digest.hexdigest()
        return digest.hexdigest()

    def _info(self) -> dict[str, Any]:
        if self._known_info is not None:
            return self._known_info
        info: dict[str, Any] = self.filesystem.info(self.path)
        if self.is_remote:
            self._known_info = info
        return info


@lru_cache(maxsize=KEPT)
def _small_content(file: StoredFile) -> bytes | None:
    """Returns all bytes of a file, or None if it has more than SMALL."""
    size = file.size
    if size is None:
        with file.filesystem.open(file.path, "rb") as raw:
            beginning = _read_bytes(raw, SMALL + 1)
        return beginning if len(beginning) <= SMALL else None
    content: bytes | None = file.filesystem.cat_file(file.path) if size <= SMALL else None
    return content


def _read_bytes(raw: BinaryIO, size: int) -> bytes:
    """Reads `size` bytes, or all that are left. A single read of a stream may return fewer, so it is repeated."""
    content = bytearray()
    while len(content) < size and (part := raw.read(size - len(content))):
        content += part
    return bytes(content)


@contextmanager
def shared_files() -> Iterator[None]:
    """Inside, a URL that is given again is the same file, so that a small one is fetched once."""
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def stored_files(source: str | Path, endings: tuple[str, ...] = (), kinds: str = "") -> list[StoredFile]:
    """Returns the files that a path, a URL or a pattern with * names, sorted by name.

    Args:
        source: the path, URL or pattern.
        endings: the endings that a file may have, without that of a compression; empty: any.
        kinds: what they are, such as "a .tsv file", for the message.

    Raises:
        CorpusError: there are no such files, their server cannot be reached, or they have another ending.
        BackendUnavailable: a package for the URL is not installed.
    """
    source = str(source)
    with wrap_read_errors(source):
        filesystem, path = fsspec.core.url_to_fs(source)
        if "*" in path and not filesystem.exists(path):
            paths = sorted(filesystem.glob(path.replace("[", "[[]")))
            is_remote = "://" in source
            files = [
                _file(filesystem, path, filesystem.unstrip_protocol(path) if is_remote else path) for path in paths
            ]
            if not files:
                raise CorpusError(f"{source}: no such files; check the path and the pattern")
        else:
            files = [_file(filesystem, path, source)]  # the name as the caller wrote it
    for file in files:
        if endings and ending(file.plain_path) not in endings:
            raise CorpusError(f"{file.name}: expected {kinds}")
        file.check()
    return files


def _file(filesystem: fsspec.AbstractFileSystem, path: str, name: str) -> StoredFile:
    file, shared = StoredFile(filesystem, path, name), _shared.get()
    return file if shared is None or not file.is_remote else shared.setdefault(name, file)
