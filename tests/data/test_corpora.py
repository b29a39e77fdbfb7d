import gzip
import json

import pandas
import pytest

from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.errors import CorpusError
from tests.support.tiny_text import write_text

TEXTS = ["one two", "", "drei \N{SNOWMAN}", "  ", "四"]
KEPT = [TEXTS[0], TEXTS[2], TEXTS[4]]


def read(source) -> tuple[list[str], CorpusReport]:
    report = CorpusReport()
    return list(read_texts(source, report)), report


@pytest.mark.parametrize("ending", ["txt", "txt.gz", "jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_files(tmp_path, ending, kind):
    found, report = read(kind(write_text(tmp_path / f"a.b.{ending}", TEXTS)))
    assert found == KEPT
    assert report == CorpusReport(texts=5, empty=2)
    assert str(report) == "texts 5, empty 2"


def test_iterables():
    assert read(iter(TEXTS))[0] == KEPT
    assert read([{"text": text, "id": 3} for text in TEXTS]) == (KEPT, CorpusReport(texts=5, empty=2))
    for bad, found in (
        ([3], "int"),
        ([{"content": "x", "id": 1}], "'content', 'id'"),
        ([{"text": 3}], "int in 'text'"),
    ):
        with pytest.raises(CorpusError, match=f"row 1: looked for a string, .* found {found}"):
            read(bad)


def test_a_list_of_paths_is_its_files_and_one_of_names_is_refused(tmp_path, monkeypatch):
    paths = [write_text(tmp_path / f"{number}.txt", [f"text {number}"]) for number in range(3)]
    assert read(paths)[0] == ["text 0", "text 1", "text 2"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CorpusError, match=r"'0.txt' in a list is a text, but names a file: give a list of pathlib.Path"
    ):
        read(["0.txt", "1.txt"])
    assert read(["3.txt", "what 0.txt is"])[0] == ["3.txt", "what 0.txt is"]


def test_lines_end_with_any_newline_and_a_byte_order_mark_is_none_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\nthree")
    assert read(tmp_path / "a.txt")[0] == ["one", "two", "three"]


def test_replaced(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\nb\xffd\n")
    assert read(tmp_path / "a.txt") == (["good", "b\ufffdd"], CorpusReport(texts=2, replaced=1))
    (tmp_path / "a.jsonl").write_text('{"text": "half \\ud800 a pair"}\n{"text": "whole \\ud83d\\ude00"}\n')
    assert read(tmp_path / "a.jsonl") == (
        ["half \ufffd a pair", "whole \N{GRINNING FACE}"],
        CorpusReport(texts=2, replaced=1),
    )


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.txt", b"text\n\x00\x01", "binary file"),
        ("a.txt.gz", b"not compressed", "cannot be read"),
        ("a.txt.gz", gzip.compress(b"many words " * 99, mtime=0)[:40], "cannot be read"),
        ("a.txt.gz", gzip.compress(b"many words", mtime=0)[:10] + b"\xff" * 20, "cannot be read"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", b'{"text": 3}\n', "line 1"),
        ("a.jsonl", b'["text"]\n', "line 1"),
        ("a.parquet", b"PAR1 PAR1", "no parquet file"),
        ("a.csv", b"text", "looked for a .txt"),
        ("a.gz", b"text", "looked for a .txt"),
    ],
)
def test_bad_files(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=words) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_bad_parquet_columns(tmp_path):
    import pyarrow
    from pyarrow import parquet

    for column, words in (({"words": ["a"]}, "no column 'text', only words"), ({"text": [3]}, "looked for a string")):
        parquet.write_table(pyarrow.table(column), tmp_path / "a.parquet")
        with pytest.raises(CorpusError, match=words):
            read(tmp_path / "a.parquet")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_null_is_an_empty_text(tmp_path, ending):
    assert read(write_text(tmp_path / f"a.{ending}", ["one", None])) == (["one"], CorpusReport(texts=2, empty=1))
    for rows in ([{"text": None}, {"text": "one"}], [None, "one"], pandas.Series(["one", float("nan")])):
        assert read(rows) == (["one"], CorpusReport(texts=2, empty=1))


def test_no_file(tmp_path):
    for path in (tmp_path / "absent.txt", tmp_path):
        with pytest.raises(CorpusError):
            read(path)


def test_read_as_asked_for(tmp_path):
    """One text is read without the rest of the file."""
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "first"}) + "\n" + "not JSON\n" * 9)
    assert next(read_texts(path, CorpusReport())) == "first"


def test_a_mapping_is_no_corpus():
    with pytest.raises(CorpusError, match="'train', 'test' is no corpus: pass one of its parts"):
        list(read_texts({"train": ["w3"], "test": ["w4"]}, CorpusReport()))
    with pytest.raises(CorpusError, match="names of its columns: pass one of them, frame..text.."):
        read(pandas.DataFrame({"text": TEXTS}))
    assert read(pandas.DataFrame({"text": TEXTS})["text"])[0] == KEPT
