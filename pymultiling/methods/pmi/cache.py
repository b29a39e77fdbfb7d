"""Answers on disk, kept one by one as they come."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from threading import Lock

from pymultiling.errors import CheckpointError

TABLE = "pymultiling_answers"
PATIENCE = 60  # seconds to wait for another process that is writing


class Cache:
    """{question: answer}, in an SQLite file that threads and processes may use at once; a context manager.

    What was kept is on disk when `keep` returns.

    Args:
        path: is made where there is none; None: in memory, for as long as the object lives.

    Raises:
        CheckpointError: the file is something else, or cannot be opened.
    """

    def __init__(self, path: str | Path | None):
        self.path = path
        self._lock = Lock()
        name = ":memory:" if path is None else str(Path(path))
        try:
            self._connection = sqlite3.connect(name, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise CheckpointError(f"{path} cannot be opened as a cache of answers: {error}") from None
        try:
            self._open()
        except BaseException:
            self._connection.close()
            raise

    def _open(self) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            tables = [
                name for (name,) in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ]
            if not tables:
                self._connection.execute(f"CREATE TABLE {TABLE} (question TEXT PRIMARY KEY, answer TEXT NOT NULL)")
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise CheckpointError(
                f"{self.path} is no cache of answers, or is damaged or locked ({error}): give another path"
            ) from None
        if tables and TABLE not in tables:
            raise CheckpointError(f"{self.path} is another program's database, no cache of answers: give another path")
        with suppress(sqlite3.OperationalError):  # others have it open: it is as safe without, and only slower
            self._connection.execute("PRAGMA journal_mode = WAL")

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *error) -> None:
        self._connection.close()

    def get(self, question: str) -> str | None:
        """The answer; None where there is none yet."""
        found = self._done(f"SELECT answer FROM {TABLE} WHERE question = ?", question)
        return found[0][0] if found else None

    def keep(self, question: str, answer: str) -> None:
        """Keeps an answer; the first one stays."""
        self._done(f"INSERT OR IGNORE INTO {TABLE} VALUES (?, ?)", question, answer)

    def _done(self, statement: str, *values: str) -> list[tuple]:
        try:
            with self._lock:
                return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise CheckpointError(f"{self.path}, a cache of answers, can be read or written no more: {error}") from None
