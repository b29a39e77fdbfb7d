"""Files of corpora: local and remote, compressed or not, one or many."""

import gzip
import json
import random
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import fsspec
import pyarrow
import pytest
from pyarrow import parquet

from pymultiling.data.file_shards import file_shards
from pymultiling.data.stored_files import SMALL
from pymultiling.errors import CorpusError
from tests.support.tiny_text import write_text

TEXTS = ["one two", "drei \N{SNOWMAN}", "四"]
FIELDS = ("text",)


def content(ending: str, lines: list[str] = TEXTS) -> bytes:
    """Returns the bytes of a file with these texts."""
    if ending == "parquet":
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.table({"text": lines}), sink, compression="zstd", row_group_size=2)
        return sink.getvalue().to_pybytes()
    data = "".join((json.dumps({"text": line}) if "jsonl" in ending else line) + "\n" for line in lines).encode()
    if ending.endswith("gz"):
        return gzip.compress(data, mtime=0)
    return pyarrow.compress(data, "zstd", asbytes=True) if ending.endswith("zst") else data


def read_texts(source) -> list[str]:
    return [text for shard in file_shards(source) for (text,) in shard.records(FIELDS)]


@pytest.mark.parametrize("ending", ["txt", "txt.gz", "txt.zst", "jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_local_and_remote_files_give_the_same_texts(tmp_path, ending):
    (tmp_path / f"a.{ending}").write_bytes(content(ending))
    fsspec.filesystem("memory").pipe(f"/folder/a.{ending}", content(ending))
    assert read_texts(tmp_path / f"a.{ending}") == read_texts(f"memory://folder/a.{ending}") == TEXTS


def test_several_compressed_frames_are_one_file(tmp_path):
    for ending in ("txt.gz", "txt.zst"):
        (tmp_path / f"a.{ending}").write_bytes(content(ending) + content(ending))
        assert read_texts(tmp_path / f"a.{ending}") == TEXTS + TEXTS


def test_a_pattern_names_files_sorted_by_name(tmp_path):
    for name in ("b.txt", "a.jsonl", "c.txt.zst"):
        (tmp_path / name).write_bytes(content(name.partition(".")[2], [name]))
        fsspec.filesystem("memory").pipe(f"/many/{name}", content(name.partition(".")[2], [name]))
    assert read_texts(f"{tmp_path}/*") == read_texts("memory://many/*") == ["a.jsonl", "b.txt", "c.txt.zst"]
    assert [shard.name for shard in file_shards("memory://many/*.txt*")] == [
        "memory:///many/b.txt",
        "memory:///many/c.txt.zst",
    ]
    (tmp_path / "x[1]").mkdir()
    (tmp_path / "x[1]" / "a.txt").write_bytes(content("txt", ["brackets are literal"]))
    assert read_texts(f"{tmp_path}/x[1]/*.txt") == ["brackets are literal"]
    (tmp_path / "*.txt").write_bytes(content("txt", ["a star is literal if the file exists"]))
    assert read_texts(tmp_path / "*.txt") == ["a star is literal if the file exists"]


def test_done_grows_to_1_while_a_file_is_read(tmp_path):
    lines = [f"{number} {random.Random(number).randbytes(400).hex()}" for number in range(2000)]
    for ending in ("txt", "txt.gz", "txt.zst", "jsonl", "parquet"):
        (tmp_path / f"a.{ending}").write_bytes(content(ending, lines))
        (shard,) = file_shards(tmp_path / f"a.{ending}")
        assert shard.done == 0
        done = [shard.done for _ in shard.records(FIELDS)]
        assert done == sorted(done) and done[0] < 0.5 < done[-1] <= shard.done == 1, ending


def test_a_fingerprint_depends_on_the_size_and_both_ends(tmp_path):
    path = tmp_path / "a.txt"

    def fingerprint(data: bytes) -> str:
        path.write_bytes(data)
        return file_shards(path)[0].fingerprint()

    data = b"a" * 200_000
    assert fingerprint(data) == fingerprint(data)
    assert len({fingerprint(changed) for changed in (data, data + b"a", b"b" + data[1:], data[:-1] + b"b", b"")}) == 5
    (shard,) = file_shards(path)
    path.unlink()
    with pytest.raises(CorpusError, match=r"a.txt: no such file \(any more\)"):
        shard.fingerprint()


@contextmanager
def http_server(data: bytes, *headers: str):
    """Yields the URL of a server that answers every request with all of the data and with these headers."""

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            for header in headers:
                self.send_header(*header.split(": "))
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            cut = random.randrange(len(data))
            self.wfile.write(data[:cut])
            self.wfile.flush()
            time.sleep(0.05)
            self.wfile.write(data[cut:])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("known", [("length", "ranges"), ("length",), ()], ids=str)
def test_files_are_read_over_http_with_and_without_length_and_ranges(known):
    lines = [f"line {number} {random.Random(number).randbytes(30).hex()}" for number in range(20_000)]
    data = content("txt.gz", lines)
    assert len(data) > SMALL  # a smaller file is fetched as a whole
    length, ranges = "length" in known, "ranges" in known
    headers = [f"Content-Length: {len(data)}"] if length else []
    with http_server(data, *headers, *([] if ranges else ["Accept-Ranges: none"])) as url:
        (shard,) = file_shards(f"{url}/a.txt.gz")
        assert len({shard.fingerprint() for _ in range(5)}) == 1 and shard.fingerprint() != ""
        read = [(text, shard.done) for (text,) in shard.records(FIELDS)]
    assert [text for text, _ in read] == lines and shard.done == 1
    assert (read[100][1] is None) != length


@pytest.mark.parametrize(
    "source, words",
    [
        ("memory://nowhere/a.txt", "nowhere/a.txt: no such file"),
        ("memory://nowhere/*.txt", r"nowhere/\*.txt: no such files"),
        ("nonsense://a.txt", r"nonsense://a.txt cannot be read \(Protocol not known: nonsense\)"),
        ("memory://folder/a.csv", "a.csv: expected a .txt, "),
    ],
)
def test_sources_without_readable_files_are_refused_at_once(source, words):
    with pytest.raises(CorpusError, match=words):
        file_shards(source)


@pytest.mark.parametrize("ending", ["txt.gz", "txt.zst", "parquet"])
def test_a_truncated_file_is_an_error(tmp_path, ending):
    lines = [f"{number} {number**9}" for number in range(5000)]
    (tmp_path / f"a.{ending}").write_bytes(content(ending, lines)[:-20])
    with pytest.raises(CorpusError, match=f"a.{ending} "):
        read_texts(tmp_path / f"a.{ending}")


def test_a_file_that_is_deleted_before_its_turn_is_an_error(tmp_path):
    write_text(tmp_path / "a.txt", TEXTS)
    write_text(tmp_path / "b.txt", TEXTS)
    first, second = file_shards(f"{tmp_path}/*.txt")
    assert len(list(first.records(FIELDS))) == 3
    (tmp_path / "b.txt").unlink()
    with pytest.raises(CorpusError, match=r"b.txt: no such file"):
        list(second.records(FIELDS))
