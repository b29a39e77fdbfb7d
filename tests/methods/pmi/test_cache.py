"""The cache of answers: databases of other programs and damaged ones are refused when they are opened."""

import sqlite3
from contextlib import closing

import pytest

from pymultiling import CheckpointError
from pymultiling.methods.pmi.cache import Cache

DAMAGES = {
    "another column": "CREATE TABLE pymultiling_answers (question TEXT PRIMARY KEY, reply TEXT NOT NULL)",
    "a column more": "CREATE TABLE pymultiling_answers (question TEXT PRIMARY KEY, answer TEXT NOT NULL, more TEXT)",
    "another type": "CREATE TABLE pymultiling_answers (question TEXT PRIMARY KEY, answer BLOB NOT NULL)",
    "another table": "CREATE TABLE answers (question TEXT PRIMARY KEY, answer TEXT NOT NULL)",
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_database_with_other_columns_is_refused(tmp_path, what):
    with closing(sqlite3.connect(tmp_path / "c.sqlite")) as connection:
        connection.execute(DAMAGES[what])
    with pytest.raises(CheckpointError, match=r"c\.sqlite is .* give another path"):
        Cache(tmp_path / "c.sqlite")


def test_damaged_caches_are_refused(tmp_path):
    path = tmp_path / "c.sqlite"
    with Cache(path) as cache:
        for number in range(500):
            cache.add(f"question {number}", "answer " * 20)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:4096], whole[:100], whole[:50], b"text", b"\xff" * 5000):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"c\.sqlite "):
            Cache(path)
    path.write_bytes(whole)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE pymultiling_answers SET answer = x'00ff' WHERE question = 'question 3'")
    with Cache(path) as cache:
        assert cache.get("question 4") == "answer " * 20
        with pytest.raises(CheckpointError, match=r"c\.sqlite is damaged: an answer is of type bytes, not a text"):
            cache.get("question 3")
