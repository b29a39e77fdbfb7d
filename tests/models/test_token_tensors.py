"""Tokens and masks in the forms that tokenizers and people give them."""

import numpy
import pytest
import torch
from transformers import BatchEncoding

import pymultiling as pml
from tests.support.tiny_models import VOCABULARY_SIZE, tiny_batch, tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer

MODEL = tiny_model("llama")
IDS, MASK = tiny_batch((11, 7)).values()
LISTS = [ids[:length].tolist() for ids, length in zip(IDS, (11, 7))]
TRUTH = pml.importance(MODEL, IDS, MASK)
FORMS = {
    "lists of different lengths": (LISTS, None),
    "padded lists": (IDS.tolist(), MASK.tolist()),
    "a list of tensors": ([torch.tensor(tokens) for tokens in LISTS], None),
    "arrays": (IDS.numpy().astype(numpy.int32), MASK.numpy().astype(bool)),
    "a BatchEncoding of lists": (BatchEncoding({"input_ids": LISTS, "attention_mask": [[1] * 11, [1] * 7]}), None),
    "a BatchEncoding of tensors": (BatchEncoding({"input_ids": IDS, "attention_mask": MASK}), None),
    "a mask in float32": (IDS, MASK.float()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_importance(form):
    measured = pml.importance(MODEL, *FORMS[form])
    assert all(torch.equal(measured[site], TRUTH[site]) for site in pml.SITES)


def test_what_a_tokenizer_returns_can_be_given_as_it_is():
    tokenizer = tiny_tokenizer()
    text = texts("fr")[0]
    one, two = pml.importance(MODEL, tokenizer(text)), pml.importance(MODEL, tokenizer(text)["input_ids"])
    truth = pml.importance(MODEL, torch.tensor([tokenizer(text)["input_ids"]]))
    assert all(torch.equal(one[site], truth[site]) and torch.equal(two[site], truth[site]) for site in pml.SITES)


REFUSED = {
    "a mask of another length": (IDS, MASK[:, :5], r"an entry for each token, \(2, 11\) as input_ids, got \(2, 5\)"),
    "a mask of attention": (IDS, torch.ones(2, 1, 11, 11), r"attention_mask must be \(documents, length\), got"),
    "a mask that is added": (IDS, torch.where(MASK == 1, 0.0, -1e9), "got values from -1e.09 to 0"),
    "a mask of documents in a row": (IDS, MASK * 2, "got values from 0 to 2: documents in one row"),
    "no whole numbers": (IDS.float(), MASK, r"whole numbers, at least one, got \(2, 11\) of torch.float32"),
    "no tokens": (IDS[:, :0], None, r"at least one, got \(2, 0\)"),
    "texts": (["a text", "another"], None, r"input_ids are no numbers, such as a tokenizer returns: got"),
    "a mapping without tokens": ({"pixel_values": 1}, None, "a mapping without input_ids, with pixel_values only"),
    "a token beyond the vocabulary": (
        IDS + VOCABULARY_SIZE,
        MASK,
        f"token {VOCABULARY_SIZE + int(IDS.min())} has no embedding, .* 0 to 60: use the tokenizer that belongs",
    ),
    "a token below 0": (torch.where(MASK == 1, IDS, -100), MASK, "token -100 has no embedding"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_meaning_is_named(kind):
    ids, mask, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        pml.importance(MODEL, ids, mask)


def test_a_tokenizer_larger_than_the_embeddings_is_named_by_its_first_token_without_one():
    model, tokenizer = tiny_model("llama", vocab_size=20), tiny_tokenizer()
    corpora = {"fr": texts("fr")}
    task = pml.tasks.continuation(corpora)
    for call in (
        lambda: pml.detect(model, tokenizer, corpora, progress=False),
        lambda: pml.activations(model, tokenizer, corpora, progress=False),
        lambda: pml.perplexity(model, tokenizer, corpora["fr"]),
        lambda: pml.sentence_embeddings(model, tokenizer, corpora),
        lambda: pml.mean_activations(model, tokenizer, corpora["fr"]),
        lambda: pml.tasks.evaluate(model, tokenizer, task, {}),
    ):
        with pytest.raises(ValueError, match=r"token \d+ has no embedding, the model has those of tokens 0 to 19"):
            call()


def test_a_larger_tokenizer_serves_texts_without_the_missing_tokens():
    """Gemma 3's tokenizer has a token for images that its text models have no embedding for."""
    model = tiny_model("llama", vocab_size=20)
    assert pml.perplexity(model, tiny_tokenizer(), ["w3 w4 w5 w6"]) > 1
