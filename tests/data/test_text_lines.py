"""Lines of texts: line ends, invalid UTF-8, and compression."""

import gzip
import io
import subprocess
import sys

import pyarrow
import pytest

import pymultiling as pml
from pymultiling.data.parallel_texts import read_columns, read_lines
from pymultiling.data.text_lines import ending, text_lines

CONTENT = "\ufeffun\r\ndeux\rtrois\n\n\u2028quatre ".encode()
WRITERS = {
    "": lambda content: content,
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".zst": lambda content: pyarrow.compress(content, "zstd", asbytes=True),
}


def read(content: bytes, compression: str, strict: bool) -> list[str]:
    name = f"fr.txt{compression}"
    return list(text_lines(io.BytesIO(WRITERS[compression](content)), name, name, strict=strict))


@pytest.mark.parametrize("compression", WRITERS)
def test_a_carriage_return_ends_a_line_unless_strict(compression):
    assert read(CONTENT, compression, strict=True) == ["un", "deux\rtrois", "", "\u2028quatre "]
    assert read(CONTENT, compression, strict=False) == ["un", "deux", "trois", "", "\u2028quatre "]
    assert read(b"", compression, strict=True) == read(b"", compression, strict=False) == []


@pytest.mark.parametrize("compression", WRITERS)
def test_invalid_utf_8_is_replaced_unless_strict(compression):
    assert read(b"a\xff\n", compression, strict=False) == ["a\N{REPLACEMENT CHARACTER}"]
    with pytest.raises(pml.CorpusError, match="the first at line 1, character 2"):
        read(b"a\xff\n", compression, strict=True)


def test_binary_files_are_refused_unless_strict():
    with pytest.raises(
        pml.CorpusError, match=r"^fr.txt is a binary file, not text: give a UTF-8 text with one document"
    ):
        read(b"a\0b\n", "", strict=False)
    assert read(b"a\0b\n", "", strict=True) == ["a\0b"]


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_parallel_texts_may_be_compressed(tmp_path, compression):
    for name, content in (("t.tsv", b"de\tfr\nein\tun\n"), ("fr.txt", b"un\n\ndeux\n")):
        (tmp_path / f"{name}{compression}").write_bytes(WRITERS[compression](content))
    assert read_columns(tmp_path / f"t.tsv{compression}") == {"de": ["ein"], "fr": ["un"]}
    assert read_lines(tmp_path / f"fr.txt{compression}") == ["un", "", "deux"]


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_damaged_parallel_texts_are_refused_by_name(tmp_path, compression):
    path, whole = tmp_path / f"fr.txt{compression}", WRITERS[compression](CONTENT * 99)
    for damaged in (whole[:-9], whole[:12] + b"\xff" * 20, CONTENT):
        path.write_bytes(damaged)
        with pytest.raises(pml.CorpusError, match=r"cannot be read \(") as caught:
            read_lines(path)
        assert str(path) in str(caught.value)


def test_ending_ignores_the_compression():
    assert [ending(name) for name in ("a/fr.txt", "fr.txt.gz", "fr.txt.zst", "fr.gz", "fr")] == [
        ".txt", ".txt", ".txt", "", "",
    ]  # fmt: skip


def test_reading_the_demo_models_texts_imports_no_heavy_packages():
    program = (
        "import sys\n"
        "from pymultiling import demo_model\n"
        "assert len(demo_model.corpora()) == len(demo_model.heldout()) == 8\n"
        "print([name for name in ('torch', 'transformers', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
