import gzip
import json

import pandas
import pytest

from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.errors import CorpusError
from tests.support.tiny_text import write_text

TEXTS = ["one two", "", "drei \N{SNOWMAN}", "  ", "四"]
NOT_BLANK = [TEXTS[0], TEXTS[2], TEXTS[4]]


def read(source) -> tuple[list[str], CorpusReport]:
    """Returns the texts of a corpus and its report."""
    report = CorpusReport()
    return list(read_texts(source, report)), report


@pytest.mark.parametrize("ending", ["txt", "txt.gz", "jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_reads_the_texts_of_every_kind_of_file(tmp_path, ending, kind):
    texts, report = read(kind(write_text(tmp_path / f"a.b.{ending}", TEXTS)))
    assert texts == NOT_BLANK
    assert report == CorpusReport(texts=5, empty=2)
    assert str(report) == "texts 5, empty 2"


def test_reads_strings_and_records_and_refuses_other_values():
    assert read(iter(TEXTS))[0] == NOT_BLANK
    assert read([{"text": text, "id": 3} for text in TEXTS]) == (NOT_BLANK, CorpusReport(texts=5, empty=2))
    for records, actual in (
        ([3], "int"),
        ([{"content": "x", "id": 1}], "'content', 'id'"),
        ([{"text": 3}], "int in 'text'"),
    ):
        with pytest.raises(CorpusError, match=f"record 1: expected a string, .* got {actual}"):
            read(records)


def test_a_list_of_paths_is_read_and_a_list_of_file_names_is_refused(tmp_path, monkeypatch):
    paths = [write_text(tmp_path / f"{number}.txt", [f"text {number}"]) for number in range(3)]
    assert read(paths)[0] == ["text 0", "text 1", "text 2"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CorpusError, match=r"'0.txt' in a list is a text, but names a file: give a list of pathlib.Path"
    ):
        read(["0.txt", "1.txt"])
    assert read(["3.txt", "what 0.txt is"])[0] == ["3.txt", "what 0.txt is"]


def test_lines_end_with_any_newline_and_a_byte_order_mark_is_dropped(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\nthree")
    assert read(tmp_path / "a.txt")[0] == ["one", "two", "three"]


def test_invalid_bytes_and_lone_surrogates_are_replaced_and_counted(tmp_path):
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
        ("a.parquet", b"PAR1 PAR1", "not a parquet file"),
        ("a.csv", b"text", "expected a .txt"),
        ("a.gz", b"text", "expected a .txt"),
    ],
)
def test_unreadable_files_are_refused_by_name(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=words) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_an_exception_without_text_is_named_by_its_type():
    def texts():
        yield "one"
        raise TimeoutError

    with pytest.raises(CorpusError, match=r"^generator cannot be read \(TimeoutError\): remove the cause"):
        read(texts())


def test_parquet_files_need_a_column_of_strings(tmp_path):
    import pyarrow
    from pyarrow import parquet

    for column, words in (({"words": ["a"]}, "no column 'text', only words"), ({"text": [3]}, "expected a string")):
        parquet.write_table(pyarrow.table(column), tmp_path / "a.parquet")
        with pytest.raises(CorpusError, match=words):
            read(tmp_path / "a.parquet")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_null_is_an_empty_text(tmp_path, ending):
    assert read(write_text(tmp_path / f"a.{ending}", ["one", None])) == (["one"], CorpusReport(texts=2, empty=1))
    for records in ([{"text": None}, {"text": "one"}], [None, "one"], pandas.Series(["one", float("nan")])):
        assert read(records) == (["one"], CorpusReport(texts=2, empty=1))


def test_absent_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path / "absent.txt", tmp_path):
        with pytest.raises(CorpusError):
            read(path)


def test_the_first_text_is_read_without_the_rest_of_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "first"}) + "\n" + "not JSON\n" * 9)
    assert next(read_texts(path, CorpusReport())) == "first"


def test_mappings_and_data_frames_are_refused():
    with pytest.raises(CorpusError, match="'train', 'test' is not a corpus: pass one of its values"):
        list(read_texts({"train": ["w3"], "test": ["w4"]}, CorpusReport()))
    with pytest.raises(CorpusError, match=r"names of its columns: pass one of them, frame..text.."):
        read(pandas.DataFrame({"text": TEXTS}))
    assert read(pandas.DataFrame({"text": TEXTS})["text"])[0] == NOT_BLANK
