"""Importance with estimates of q and k: its error on a trained model, and that it is not added to exact importance."""

from itertools import islice

import pytest
import torch

import pymultiling as pml
from pymultiling import demo_model
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import tokenise
from tests.support.tiny_models import tiny_batch, tiny_model


def ranks(values: torch.Tensor) -> torch.Tensor:
    return values.argsort(-1).argsort(-1).double()


def spearman(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Returns the rank correlation over the last dimension."""
    a, b = (ranks(x) - (x.shape[-1] - 1) / 2 for x in (a, b))
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()


@pytest.mark.parametrize("length, languages, each", [(128, ("de", "hi", "zh"), 3), (256, ("fr", "tr"), 1)])
def test_estimates_rank_neurons_of_a_trained_model_as_exact_importance_does(length, languages, each):
    model, tokenizer = demo_model.load()
    documents = [
        document
        for language in languages
        for document in islice(
            tokenise(demo_model.corpora()[language], tokenizer, length, CorpusReport(), pack=length), each
        )
    ]
    tokens = torch.tensor(documents)
    exact = pml.importance(model, tokens, sites=("q", "k"))
    fast = pml.importance(model, tokens, sites=("q", "k"), qk="fast")
    for site in ("q", "k"):
        assert spearman(fast[site], exact[site]).min() >= 0.999, site
        error = (fast[site] - exact[site]).abs()
        assert 0 < (error / exact[site]).median() < 0.01, site


def test_estimates_of_short_documents_are_exact():
    for name in ("llama", "qwen3", "gemma2", "opt", "bloom", "falcon-alibi-one-key", "cohere-norms", "olmo2"):
        model, batch = tiny_model(name), tiny_batch()
        for arguments in ({}, {"rope": "post"}, {"score": "released"}):
            exact = pml.importance(model, **batch, **arguments)
            fast = pml.importance(model, **batch, **arguments, qk="fast")
            for site in ("ffn", "v", "o"):
                assert torch.equal(fast[site], exact[site])
            for site in ("q", "k"):
                torch.testing.assert_close(fast[site], exact[site], rtol=1e-3, atol=1e-6 * float(exact[site].max()))


@pytest.mark.parametrize("name", ["bloom-three-heads", "falcon-alibi-one-key", "falcon-alibi-new"])
def test_estimates_include_the_biases_of_attention_scores(name):
    """With ALiBi the last keys are the most probable. Without its biases, other keys would be sampled."""
    model, batch = tiny_model(name), tiny_batch((60, 45))
    exact, fast = (pml.importance(model, **batch, sites=("q", "k"), qk=mode) for mode in ("exact", "fast"))
    for site in ("q", "k"):
        error = (fast[site] - exact[site]).abs()
        assert (error / exact[site]).median() < 0.02, site


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="fast"):
        pml.importance(tiny_model("llama"), **tiny_batch(), qk="quick")


def tokenizer(texts, **_):
    """Gives every text 40 tokens, which depend on its length."""
    return {"input_ids": [[1 + (len(text) + place) % 59 for place in range(40)] for text in texts]}


def detect(**arguments) -> pml.NeuronStatistics:
    result = pml.detect(tiny_model("llama"), tokenizer, {"a": ["x", "yy"]}, progress=False, **arguments)
    return result.statistics["a"]


def test_estimated_statistics_and_exact_ones_do_not_add():
    exact, fast = detect(), detect(qk="fast")
    assert "estimated" in fast.rule and "estimated" not in exact.rule
    with pytest.raises(ValueError, match="q and k estimated"):
        exact + fast
    assert (fast + fast).documents == 4
    assert pml.TopK(share=0.5).select(fast)


def test_without_q_and_k_nothing_is_estimated():
    exact, fast = detect(sites=("ffn", "v")), detect(sites=("ffn", "v"), qk="fast")
    assert (exact + fast).documents == 4
