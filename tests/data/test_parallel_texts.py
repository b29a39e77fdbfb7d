"""Tables with a column for each language, and texts whose lines correspond."""

import gzip

import pytest

from pymultiling.data.parallel_texts import read_columns, read_lines
from pymultiling.errors import CorpusError

TABLE = 'id\tde\tfr\n1\tEr sagt "ja.\t« oui »\n2\t\t"non"\n3\t a\u2028b \t\n'
COLUMNS = {"de": ['Er sagt "ja.', "", " a\u2028b "], "fr": ["« oui »", '"non"', ""]}


@pytest.mark.parametrize("name", ["t.tsv", "t.tsv.gz", "a.b.tsv"])
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_reads_the_columns_of_a_table(tmp_path, name, kind):
    content = TABLE.encode()
    (tmp_path / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    columns = read_columns(kind(tmp_path / name))
    assert columns == COLUMNS and list(columns) == ["de", "fr"]


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode("utf-8-sig"),
        TABLE.replace("\n", "\r\n").encode(),
        TABLE.rstrip("\n").encode(),
        TABLE.replace("id\t", "", 1).replace("\n1\t", "\n").replace("\n2\t", "\n").replace("\n3\t", "\n").encode(),
    ],
    ids=["byte order mark", "CRLF", "no newline at the end", "no id"],
)
def test_line_ends_and_the_id_column_do_not_matter(tmp_path, content):
    (tmp_path / "t.tsv").write_bytes(content)
    assert read_columns(tmp_path / "t.tsv") == COLUMNS


def test_tables_may_have_one_line_or_one_column(tmp_path):
    (tmp_path / "t.tsv").write_text("de\tfr\n")
    assert read_columns(tmp_path / "t.tsv") == {"de": [], "fr": []}
    (tmp_path / "t.tsv").write_text("de\n\neins\n")
    assert read_columns(tmp_path / "t.tsv") == {"de": ["", "eins"]}


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("t.csv", b"de\tfr\n", "expected a .tsv, .tsv.gz or .tsv.zst file"),
        ("t.txt.gz", gzip.compress(b"de\tfr\n", mtime=0), "expected a .tsv, .tsv.gz or .tsv.zst file"),
        ("t.gz", gzip.compress(b"de\tfr\n", mtime=0), "expected a .tsv, .tsv.gz or .tsv.zst file"),
        ("t.tsv", b"", "is empty: expected a first line with the languages' codes"),
        ("t.tsv", b"\n\t\n", "is empty"),
        ("t.tsv", b"de\tfr\tde\na\tb\tc\n", "a language is twice in the first line, de fr de"),
        ("t.tsv", b"de\tfr\na\tb\na\tb\tc\n", "line 3: expected 2 columns as in the first line, got 3"),
        ("t.tsv", b"de\tfr\na\n", "line 2: expected 2 columns as in the first line, got 1"),
        ("t.tsv", "de\tfr\nfünf\tcinq\n".encode("latin-1"), "save it in UTF-8"),
        ("t.tsv.gz", b"de\tfr\n", "cannot be read"),
        ("t.tsv.gz", gzip.compress(b"de\tfr\n" + b"a\tb\n" * 99, mtime=0)[:-9], "cannot be read"),
        ("t.tsv.gz", gzip.compress(b"de\tfr\n", mtime=0)[:10] + b"\xff" * 20, "cannot be read"),
    ],
)
def test_malformed_tables_are_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=words) as caught:
        read_columns(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_absent_files_are_refused(tmp_path):
    (tmp_path / "folder.tsv").mkdir()
    for read, name in (
        (read_columns, "absent.tsv"),
        (read_columns, "folder.tsv"),
        (read_lines, "absent.txt.gz"),
        (read_lines, ""),
    ):
        with pytest.raises(CorpusError, match="no such file") as caught:
            read(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_tables_are_not_read_as_lines(tmp_path):
    for name in ("fr.json", "fr.xml.gz", "fr.tsv", "fr.csv"):
        (tmp_path / name).touch()
        with pytest.raises(CorpusError, match="expected a text with one sentence a line"):
            read_lines(tmp_path / name)
    (tmp_path / "eng_Latn.devtest").write_text("one\ntwo\n")
    assert read_lines(tmp_path / "eng_Latn.devtest") == ["one", "two"]


def test_a_table_needs_the_languages_codes(tmp_path):
    for header in ("fr\t\tit", "id"):
        path = tmp_path / "table.tsv"
        path.write_text(f"{header}\n")
        with pytest.raises(CorpusError, match="expected the languages' codes in the first line"):
            read_columns(path)


@pytest.mark.parametrize("ending", ["txt", "txt.gz"])
def test_empty_lines_are_kept(tmp_path, ending):
    content, path = "\ufeff\nun\r\n\n  \ndeux\x0bdeux\rdeux\u2028\n\n".encode(), tmp_path / f"fr.{ending}"
    path.write_bytes(gzip.compress(content, mtime=0) if ending == "txt.gz" else content)
    assert read_lines(path) == read_lines(str(path)) == ["", "un", "", "  ", "deux\x0bdeux\rdeux\u2028", ""]


def test_an_empty_file_has_no_lines(tmp_path):
    (tmp_path / "fr.txt").write_bytes(b"")
    assert read_lines(tmp_path / "fr.txt") == []
