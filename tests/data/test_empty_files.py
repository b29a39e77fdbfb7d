"""Files without texts among others are named, in every way of reading; a corpus of nothing else is an error."""

import warnings

import pytest

import pymultiling as pml
from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.data.empty_files import warn_of_empty_files
from pymultiling.data.parallel_texts import read_lines
from tests.support.tiny_models import tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer, write_text


def detect(source):
    return pml.detect(tiny_model("llama"), tiny_tokenizer(), {"fr": source}, progress=False, workers=0)


READERS = {
    "a pass": detect,
    "texts": lambda source: list(read_texts(source, CorpusReport())),
    "lines": read_lines,
}


@pytest.fixture
def pattern(tmp_path) -> str:
    for number in range(3):
        write_text(tmp_path / f"{number}.txt", texts("fr", seed=number) if number != 1 else [])
    return f"{tmp_path}/*.txt"


@pytest.mark.parametrize("reader", READERS)
def test_an_empty_file_of_a_pattern_is_named(pattern, reader):
    with pytest.warns(UserWarning, match=r"1 of 3 files has no texts, .*1\.txt: check whether they are complete"):
        READERS[reader](pattern)


@pytest.mark.parametrize("reader", READERS)
def test_files_with_texts_are_not_named(pattern, reader):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        READERS[reader](pattern.replace("*", "0"))


def test_a_resumed_pass_names_an_empty_file_too(pattern, tmp_path):
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"fr: 1 of 3 files has no texts"):
            pml.detect(
                tiny_model("llama"), tiny_tokenizer(), {"fr": pattern}, progress=False, checkpoint=tmp_path / "state"
            )


def test_a_pattern_of_empty_files_is_an_error(tmp_path):
    for number in range(3):
        write_text(tmp_path / f"{number}.txt", [])
    with pytest.raises(pml.CorpusError, match="language 'fr' has no documents: nothing was read"):
        detect(f"{tmp_path}/*.txt")


def test_of_many_empty_files_some_are_named():
    with pytest.warns(UserWarning, match="fr: 7 of 9 files have no texts, a, b, c, d, e and 2 more: check"):
        warn_of_empty_files(list("abcdefg"), 9, "fr: ")
