"""Files of any file system: what is said of those that cannot be read, and how often a remote one is fetched."""

import random
import socket
import sys

import pytest

from pymultiling.data.corpus_types import TextFile
from pymultiling.data.file_shards import file_shards
from pymultiling.data.parallel_texts import read_columns, read_lines
from pymultiling.data.stored_files import SMALL, shared_files, stored_files
from pymultiling.errors import BackendUnavailable, CorpusError
from pymultiling.tasks.task_files import read_task_records
from tests.data.test_file_shards import content
from tests.support.file_server import file_server

pytest.importorskip("aiohttp")

READERS = (file_shards, read_lines, lambda source: list(read_task_records(source)))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", ["fr.jsonl", "fr*.jsonl"])
def test_a_dead_server_is_not_called_a_missing_file(read, name):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # nothing listens there once the server is closed
    with pytest.raises(CorpusError, match=r"\(Connection refused\): check the address and the network$") as caught:
        read(f"http://127.0.0.1:{port}/{name}")
    assert "no such file" not in str(caught.value) and f":{port}/{name} cannot be read" in str(caught.value)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("url", ["http://example.org/fr.jsonl", "hf://datasets/owner/name/fr.jsonl"])
def test_a_server_whose_name_is_not_known_is_not_called_a_missing_file(monkeypatch, read, url):
    def fail(*_args, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(CorpusError, match=r"fr.jsonl cannot be read \(Name or service not known\): check the address"):
        read(url)


@pytest.mark.parametrize(
    "status, words",
    [
        (404, r"fr.jsonl: no such file \(the server answers 404 Not Found\); check the address"),
        (403, r"fr.jsonl cannot be read \(the server answers 403 Forbidden\): log in, or check the address"),
        (500, r"fr.jsonl cannot be read \(the server answers 500 Internal Server Error\): try again later"),
    ],
)
@pytest.mark.parametrize("read", READERS)
def test_the_answer_of_a_server_is_shown(read, status, words):
    with file_server({}) as server:
        server.status = status
        with pytest.raises(CorpusError, match=words):
            read(f"{server.url}/fr.jsonl")


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(BackendUnavailable, match=r"Install s3fs .*pip install 'pymultiling\[remote\]'"):
        file_shards("s3://bucket/fr.txt")


def test_a_small_remote_file_is_fetched_once():
    with file_server({"fr.txt": b"un\ndeux\ntrois\n"}) as server:
        (shard,) = file_shards(f"{server.url}/fr.txt")
        for _ in range(2):
            assert [text for (text,) in shard.records(("text",))] == ["un", "deux", "trois"]
            assert shard.fingerprint() and shard.size == 14
        assert server.requests == ["HEAD /fr.txt", "GET /fr.txt"]
        with shared_files():
            for _ in range(2):
                assert read_lines(f"{server.url}/fr.txt") == ["un", "deux", "trois"]
        assert server.count("GET") == 2
        server.files = {"fr.txt": b"quatre\n"}  # a later call reads the file anew
        assert read_lines(f"{server.url}/fr.txt") == ["quatre"]


def test_a_large_remote_file_is_read_in_parts():
    lines = [random.Random(number).randbytes(500).hex() for number in range(SMALL // 500)]
    data = "\n".join(lines).encode()
    with file_server({"fr.txt": data}) as server:
        (shard,) = file_shards(f"{server.url}/fr.txt")
        assert [text for (text,) in shard.records(("text",))] == lines
        assert shard.fingerprint() == file_shards(f"{server.url}/fr.txt")[0].fingerprint()


def test_the_query_of_a_url_is_no_part_of_the_ending():
    files = {"fr.txt.gz": content("txt.gz", ["un"]), "t.tsv": b"de\tfr\nein\tun\n"}
    with file_server(files) as server:
        assert read_lines(f"{server.url}/fr.txt.gz?download=true") == ["un"]
        (shard,) = file_shards(f"{server.url}/fr.txt.gz?download=true")
        assert list(shard.records(("text",))) == [("un",)]
        assert read_columns(f"{server.url}/t.tsv?raw=1") == {"de": ["ein"], "fr": ["un"]}


def test_parallel_texts_are_read_from_every_kind_of_file(tmp_path):
    for ending in ("txt", "txt.gz", "txt.zst", "jsonl", "jsonl.zst", "parquet"):
        (tmp_path / f"fr.{ending}").write_bytes(content(ending, ["un", "", "deux"]))
        assert read_lines(tmp_path / f"fr.{ending}") == ["un", "", "deux"], ending
    (tmp_path / "part-1.txt").write_bytes(b"un\n\n")
    (tmp_path / "part-2.txt").write_bytes(b"deux\n")
    assert read_lines(f"{tmp_path}/part-*.txt") == ["un", "", "deux"]
    (tmp_path / "latin.tsv").write_bytes("de\tfr\nfünf\tété\n".encode("latin-1"))
    assert read_columns(TextFile(tmp_path / "latin.tsv", "latin-1")) == {"de": ["fünf"], "fr": ["été"]}
    (tmp_path / "field.jsonl").write_text('{"content": "un"}\n')
    assert read_lines(TextFile(tmp_path / "field.jsonl", field="content")) == ["un"]
    with pytest.raises(CorpusError, match=r"part-\*.tsv: no such files"):
        read_columns(f"{tmp_path}/part-*.tsv")
    for number in (1, 2):
        (tmp_path / f"part-{number}.tsv").write_bytes(b"de\tfr\n")
    with pytest.raises(CorpusError, match=r"expected one table, and 2 files have such names; give one"):
        read_columns(f"{tmp_path}/part-*.tsv")


def test_a_folder_is_not_a_file(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(CorpusError, match=r"a.txt: no such file"):
        stored_files(tmp_path / "a.txt")
