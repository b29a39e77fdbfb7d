"""Texts that are not in UTF-8: the error names the file, the place and the encoding, and TextFile reads them."""

import gzip

import pandas
import pytest

import pymultiling as pml
from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.data.documents import tokenise
from pymultiling.data.parallel_texts import read_lines
from pymultiling.data.text_encoding import CHECKED
from tests.support.tiny_text import WORDS, tiny_tokenizer, write_text

CHINESE = [
    "中文是世界上使用人数最多的语言之一。",
    "他们在图书馆里读书,然后回家吃饭。",
    "今天的天气很好,我们去公园散步吧。",
] * 9
GERMAN = ["Über den Wolken muß die Freiheit wohl grenzenlos sein.", "Die Mädchen hören schöne Lieder über Flüsse."] * 9


def read(source) -> list[str]:
    return list(read_texts(source, CorpusReport()))


@pytest.mark.parametrize(
    "lines, encoding, guess",
    [(CHINESE, "gb18030", "gb18030"), (CHINESE, "utf-16", "utf-16"), (GERMAN, "cp1252", "cp125")],
)
@pytest.mark.parametrize("ending", ["txt", "txt.gz"])
def test_a_file_in_another_encoding_is_refused_and_read_as_a_text_file(tmp_path, lines, encoding, guess, ending):
    path = tmp_path / f"texts.{ending}"
    content = "".join(f"{line}\n" for line in lines).encode(encoding)
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    with pytest.raises(pml.CorpusError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and f"give --encoding {guess}" in message and "TextFile" in message
    assert encoding == "utf-16" or "the first at line 1, character 1;" in message
    assert read(pml.TextFile(path, encoding)) == lines


def test_the_place_is_that_of_the_first_byte_that_is_not_utf_8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\n" + "Größe ".encode() + b"f\xfcr Stra\xdfe\n")
    with pytest.raises(pml.CorpusError, match=r"a.txt: 2 of the first 20 characters .* at line 2, character 8;"):
        read(tmp_path / "a.txt")
    with pytest.raises(pml.CorpusError, match=r"a.txt: 1 of the first|a.txt: 2 of the first"):
        read_lines(tmp_path / "a.txt")


def test_one_character_in_a_thousand_is_replaced(tmp_path):
    line = b"x" * 1998 + b"\xff\xff\n"
    (tmp_path / "a.txt").write_bytes(line)
    assert read(tmp_path / "a.txt") == ["x" * 1998 + "\ufffd\ufffd"]
    (tmp_path / "a.txt").write_bytes(line[1:])
    with pytest.raises(pml.CorpusError, match=r"2 of the first 1,999"):
        read(tmp_path / "a.txt")


def test_a_long_file_is_refused_before_its_end():
    taken = 0

    def texts():
        nonlocal taken
        while True:
            taken += 1
            yield "\ufffd" * 64

    with pytest.raises(pml.CorpusError, match=r"generator: 65,536 of the first 65,536 .* make them again"):
        read(texts())
    assert taken == CHECKED // 64


def test_damaged_texts_are_refused_wherever_they_come_from(tmp_path):
    damaged = ["gut", "M\ufffddchen h\ufffdren"]
    paths = [write_text(tmp_path / f"a.{ending}", damaged) for ending in ("txt", "jsonl", "parquet")]
    for source in (damaged, [{"text": text} for text in damaged], pandas.Series(damaged), *paths):
        with pytest.raises(pml.CorpusError, match="2 of the first"):
            read(source)
    with pytest.raises(pml.CorpusError, match="2 of the first"):
        read(["h\udce4lt \udcfc"])  # as open(..., errors="surrogateescape") reads it


def test_texts_in_python_and_in_a_file_give_the_same_tokens(tmp_path):
    """Lines as Python reads them keep their line ends, and the first one the byte order mark."""
    lines = [" ".join(WORDS[start : start + 5]) for start in range(4)]
    path, tokenizer = tmp_path / "a.txt", tiny_tokenizer()
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())

    def documents(source) -> list[list[int]]:
        return list(tokenise(read(source), tokenizer, 99, CorpusReport()))

    with path.open(encoding="utf-8", newline="") as file:
        assert documents(file) == documents(path) == documents(lines)
    with path.open(encoding="utf-8") as file:
        assert read(file) == read(write_text(tmp_path / "a.jsonl", [line + "\n" for line in lines])) == lines


def test_an_unknown_encoding_is_refused():
    with pytest.raises(ValueError, match="unknown encoding 'gbx'"):
        pml.TextFile("a.txt", "gbx")
