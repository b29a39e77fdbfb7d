from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BloomConfig, LlamaConfig

from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import TEXTS_AT_A_TIME, document_length, tokenise
from tests.support.tiny_text import WORDS, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
BOS, EOS = 1, 2
word_texts = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join), max_size=12)


def make_documents(texts, max_length=99, pack=None, tokenizer=TOKENIZER) -> tuple[list[list[int]], CorpusReport]:
    report = CorpusReport()
    return list(tokenise(texts, tokenizer, max_length, report, pack)), report


def test_a_text_is_a_document():
    assert make_documents(["w3 w4", "w5"]) == ([[BOS, 3, 4], [BOS, 5]], CorpusReport())


def test_long_documents_are_cut_and_counted():
    assert make_documents(["w3 w4 w5", "w6 w7", "w8"], max_length=3) == (
        [[BOS, 3, 4], [BOS, 6, 7], [BOS, 8]],
        CorpusReport(cut=1),
    )


@given(word_texts, st.integers(2, 12))
def test_packed_documents_have_every_token_once_in_order(texts, size):
    """Documents have the requested size and start like a text. Together they have the tokens of all texts."""
    documents, report = make_documents(texts, pack=size)
    assert all(len(document) == size and document[0] == BOS for document in documents)
    whole = [token for text in texts for token in [*(int(word[1:]) for word in text.split()), EOS]]
    inside = [token for document in documents for token in document[1:]]
    assert inside == whole[: len(inside)]
    assert report == CorpusReport(left_over=len(whole) - len(inside))
    assert report.left_over < size - 1


def test_packed_documents_without_room_for_text_are_refused():
    with pytest.raises(ValueError, match="no room"):
        make_documents(["w3"], pack=1)


def test_the_first_document_needs_one_batch_of_texts():
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield "w3 w4"

    for pack in (None, 5):
        read = 0
        next(tokenise(endless(), TOKENIZER, 99, CorpusReport(), pack))
        assert read == TEXTS_AT_A_TIME


def test_texts_of_one_token_are_left_out_and_counted():
    documents, report = make_documents(["w3", "w3 w4", "w5"], tokenizer=tiny_tokenizer(bos=False))
    assert [len(document) for document in documents] == [2] and report.short == 2
    assert str(CorpusReport(texts=3, short=2)) == "texts 3, short 2"


class Model:
    config = LlamaConfig(max_position_embeddings=64)


def test_document_length_is_limited_by_the_models_positions():
    assert document_length(Model, 10, 4096, None) == 10
    assert document_length(Model, 100, 4096, 64) == 64
    assert document_length(SimpleNamespace(config=BloomConfig()), 100, 4096, None) == 100


@pytest.mark.parametrize("lengths", [(1, 9, None), (-1, 9, None), (9, 0, None), (9, 9, 1), (32, 9, 33), (100, 9, 65)])
def test_lengths_out_of_range_are_refused(lengths):
    with pytest.raises(ValueError, match="max_length"):
        document_length(Model, *lengths)
