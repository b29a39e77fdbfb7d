"""What a tokenizer adds to a text, at either end, and where it goes in documents, prompts and answers."""

from itertools import pairwise

import pytest
import torch
from tokenizers import processors

from pymultiling import tasks
from pymultiling.data.added_tokens import added_tokens, encode_prompt
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.tokenising import Tokenisation
from pymultiling.methods.pmi.compare import _encode_prompt
from pymultiling.tasks.cut_prompts import cut_beginning
from pymultiling.tasks.evaluate import encode_answer
from pymultiling.tasks.generation import generate
from tests.support.tiny_models import tiny_model
from tests.support.tiny_text import tiny_tokenizer

EOS = 2
# {family: template of its tokenizer}: two tokens before a text, the end of a text before a text, one at either end.
TEMPLATES = {
    "glm": ("w9 <s> $A", [9, 1], []),
    "xglm": ("</s> $A", [2], []),
    "both ends": ("<s> $A </s>", [1], [2]),
    "only the end": ("$A w9 </s>", [], [9, 2]),
    "nothing": ("$A", [], []),
}


def make_tokenizer(template: str):
    tokenizer = tiny_tokenizer(bos=False)
    special = [("<s>", 1), ("</s>", 2), ("w9", 9)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return tokenizer


@pytest.fixture(params=TEMPLATES)
def case(request):
    template, before, after = TEMPLATES[request.param]
    return make_tokenizer(template), before, after


def documents(tokenizer, records, **options) -> list[tuple[list[int], int]]:
    found = Tokenisation(tokenizer, 99, **options)(records)
    return [(tokens.tolist(), position) for tokens, position in zip(found, found.positions.tolist())]


def test_what_is_added_is_found(case):
    tokenizer, before, after = case
    assert added_tokens(tokenizer) == (before, after)


def test_documents_of_a_corpus_are_what_the_tokenizer_returns(case):
    tokenizer, _, _ = case
    expected = tokenizer("w5 w6 w7")["input_ids"]
    assert documents(tokenizer, [("w5 w6 w7",)]) == [(expected, 0)]
    assert documents(tokenizer, [("w5 w6 w7",)], form="sentences") == [(expected, 0)]


def test_packed_documents_open_as_the_tokenizer_opens_a_text(case):
    tokenizer, before, after = case
    between = after or [EOS]
    size = len(before) + 3
    stream = [5, 6, *between, 7, 8, 5, *between]
    packed = documents(tokenizer, [("w5 w6",), ("w7 w8 w5",)], pack=size)
    whole = [before + stream[start : start + 3] for start in range(0, len(stream) - 2, 3)]
    assert [tokens for tokens, _ in packed] == whole


def test_a_text_that_goes_on_has_no_end(case):
    tokenizer, before, _ = case
    assert encode_prompt(tokenizer, "w5 w6") == _encode_prompt(tokenizer, "w5 w6", chat=False) == [*before, 5, 6]
    assert documents(tokenizer, [("w5 w6",)], form="prompts") == [([*before, 5, 6], 0)]
    pair = [*before, 5, 6, 7], len(before) + 2
    assert documents(tokenizer, [("w5 w6", " w7")], form="pairs") == [pair]
    assert encode_answer(tokenizer, "w5 w6", " w7") == pair
    # an answer that begins with the token that would end the prompt
    assert encode_answer(tokenizer, "w5 w6", " </s> w7") == ([*before, 5, 6, 2, 7], len(before) + 2)


def test_generation_continues_the_prompt(case):
    tokenizer, before, _ = case
    model = tiny_model("llama", torch.float64)
    expected = model.generate(torch.tensor([[*before, 5, 6]]), max_new_tokens=3, do_sample=False, pad_token_id=0)
    task = tasks.Task("t", {}, "f1", (), 3)
    ((answer,),) = generate(model, tokenizer, ["w5 w6"], [None], task)
    assert answer.tokens == expected[0, len(before) + 2 :].tolist()


def test_cut_prompts_keep_what_opens_a_text(case):
    tokenizer, before, _ = case
    tokens = [*before, 5, 6, 7, 8]
    assert cut_beginning(tokens, 2, len(tokens) - 1, tokenizer) == [*before, 7, 8]
    assert cut_beginning(tokens, 0, len(tokens), tokenizer) == tokens
    assert len(cut_beginning(tokens, 4, 4, tokenizer)) == len(tokens) - 4


def test_texts_without_a_token_of_their_own_are_left_out(case):
    """A zero-width space has no token in many tokenizers; here they have none for a text that is normalised to ""."""
    from tokenizers import normalizers

    tokenizer, _, _ = case
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("-", "")
    for form, expected in (
        ("texts", CorpusReport(texts=1, short=1)),
        ("prompts", CorpusReport(texts=1, short=1)),
        ("predicted", CorpusReport(texts=1, short=1)),
        ("sentences", CorpusReport(texts=1, empty=1)),
    ):
        result = Tokenisation(tokenizer, 99, form=form)([("-",)])
        assert len(result.lengths) == 0 and result.report == expected, form
    result = Tokenisation(tokenizer, 99, form="pairs")([("-", "-")])
    assert len(result.lengths) == 0 and result.report == CorpusReport(texts=1, short=1)


@pytest.mark.parametrize("pack", [None, 6, 5, 99])
def test_predicted_tokens_are_those_of_the_texts_each_once(case, pack):
    """Every document opens as the tokenizer opens a text, holds one text, and counts no token that was added."""
    tokenizer, before, _ = case
    texts = [[5, 6, 7, 8, 5, 6, 7, 8, 9, 3, 4], [7, 8, 5]]
    records = [(" ".join(f"w{token}" for token in text),) for text in texts]
    found = documents(tokenizer, records, form="predicted", pack=pack)
    assert all(tokens[: len(before)] == before for tokens, _ in found)
    assert all(len(tokens) <= (pack or 99) for tokens, _ in found)
    counted = [token for tokens, start in found for token in tokens[start:]]
    assert counted == [token for text in texts for token in (text if before else text[1:])]
    # the token before one that counts is the one before it in its text, or opens a text
    first = {text[0] for text in texts}
    contexts = [(tokens[start - 1], tokens[start]) for tokens, start in found]
    pairs = {pair for text in texts for pair in pairwise(text)}
    for context, token in contexts:
        assert (context, token) in pairs or (before and context == before[-1] and token in first)


def test_documents_without_room_to_predict_are_refused():
    with pytest.raises(ValueError, match="no room"):
        documents(make_tokenizer("w9 <s> $A"), [("w5",)], form="predicted", pack=3)
