"""A cache of answers on disk, which stores each answer as soon as it arrives."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from pymultiling.errors import CheckpointError

TABLE = "pymultiling_answers"
COLUMNS = [("question", "TEXT"), ("answer", "TEXT")]
LOCK_SECONDS = 60  # how long to wait for another process that is writing


class Cache:
    """{question: answer} in an SQLite file, which threads and processes may use at the same time; a context manager.

    An answer is on disk when `add` returns.

    Args:
        path: the file, which is created if it does not exist; None: the answers are in memory and end with the object.

    Raises:
        CheckpointError: the file is not a cache of answers, or cannot be opened.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = path
        self._lock = Lock()
        name = ":memory:" if path is None else str(Path(path))
        try:
            self._connection = sqlite3.connect(
                name, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise CheckpointError(
                f"{path} cannot be opened as a cache of answers ({error}): give a path in an existing folder"
            ) from None
        try:
            self._create_table()
        except BaseException:
            self._connection.close()
            raise

    def _create_table(self) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            tables = [
                name for (name,) in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ]
            if not tables:
                self._connection.execute(f"CREATE TABLE {TABLE} (question TEXT PRIMARY KEY, answer TEXT NOT NULL)")
            self._connection.execute("COMMIT")
            columns = [(name, kind) for _, name, kind, *_ in self._connection.execute(f"PRAGMA table_info({TABLE})")]
            fault = None if not tables else self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.Error as error:
            raise CheckpointError(
                f"{self.path} is not a cache of answers, or is damaged or locked ({error}): give another path"
            ) from None
        if tables and TABLE not in tables:
            raise CheckpointError(
                f"{self.path} is the database of another program, not a cache of answers: give another path"
            )
        if columns != COLUMNS or fault not in (None, "ok"):
            described = ", ".join(f"{name} {kind}" for name, kind in columns)
            raise CheckpointError(
                f"{self.path} is not a cache of answers, or is damaged ({described if columns != COLUMNS else fault}): "
                "give another path"
            )
        # This fails while others have the file open. The cache is as safe without it, and only slower.
        with suppress(sqlite3.OperationalError):
            self._connection.execute("PRAGMA journal_mode = WAL")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    def get(self, question: str) -> str | None:
        """Returns the answer to a question; None if there is none."""
        rows = self._execute(f"SELECT answer FROM {TABLE} WHERE question = ?", question)
        if not rows:
            return None
        (answer,) = rows[0]
        if not isinstance(answer, str):
            raise CheckpointError(
                f"{self.path} is damaged: an answer is of type {type(answer).__name__}, not a text; give another path"
            )
        return answer

    def add(self, question: str, answer: str) -> None:
        """Stores an answer, unless the question has one already."""
        self._execute(f"INSERT OR IGNORE INTO {TABLE} VALUES (?, ?)", question, answer)

    def _execute(self, statement: str, *values: str) -> list[tuple[object]]:
        try:
            with self._lock:
                return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise CheckpointError(
                f"the cache of answers {self.path} cannot be read or written any more ({error}): give another path"
            ) from None
