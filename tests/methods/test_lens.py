"""pml.lens against a loop over positions, and against the shares of texts whose languages are known."""

import sys

import pandas
import pytest
import torch

import pymultiling as pml
from pymultiling import demo_model
from pymultiling.methods.lens import count_top_tokens, language_shares, lens, lens_language_codes, token_confidences
from pymultiling.passes.job import Options
from pymultiling.probes import hidden_states
from tests.support.anatomy import module_name
from tests.support.tiny_models import REPRESENTATIVE_MODELS, VOCABULARY_SIZE, tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer

pytest.importorskip("lingua")


def top_token_counts(model, tokenizer, corpus: list[str], top: int, batch_tokens: int = 24) -> torch.Tensor:
    options = Options(batch_tokens, progress=False)
    counts = count_top_tokens(model, tokenizer, {"x": corpus}, top=top, max_length=64, pack=None, options=options)
    return counts["x"][0]


@pytest.fixture(scope="module")
def trained():
    """Returns the demo model, its tokenizer, and the confidences of its tokens in its languages."""
    model, tokenizer = demo_model.load()
    codes = demo_model.LANGUAGES
    return model, tokenizer, token_confidences(tokenizer, codes, model.config.vocab_size)


def plain_counts(model, tokenizer, corpus: list[str], top: int) -> torch.Tensor:
    """Returns (layers + 1, vocabulary), from transformers' hidden states and, for the last layer, its logits."""
    counts = torch.zeros(3, VOCABULARY_SIZE, dtype=torch.int64)
    for text in corpus:
        tokens = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            output = model(input_ids=tokens, output_hidden_states=True, use_cache=False)
            projected = getattr(model.config, "word_embed_proj_dim", 32) != 32  # OPT then projects in place of a norm
            norm = model.base_model.get_submodule(
                "decoder.project_out" if projected else module_name(model.config, "norm")
            )
            head = model.get_output_embeddings()
            decoded = [head(norm(states)) for states in output.hidden_states[:-1]] + [output.logits]
        for layer, logits in enumerate(decoded):
            for position in logits[0]:
                for token in position.argsort(descending=True)[:top]:
                    counts[layer, token] += 1
    return counts


@pytest.mark.parametrize("top", [1, 4])
@pytest.mark.parametrize("name", [*REPRESENTATIVE_MODELS, "opt-post-norm"])
def test_counts_are_those_of_a_loop_over_positions(monkeypatch, name, top):
    monkeypatch.setattr(hidden_states, "MAX_LOGITS", 5 * VOCABULARY_SIZE)  # five positions at a time
    model, tokenizer = tiny_model(name, torch.float64), tiny_tokenizer()
    counts = top_token_counts(model, tokenizer, texts("fr"), top, batch_tokens=1)
    assert torch.equal(counts, plain_counts(model, tokenizer, texts("fr"), top))
    if name not in ("gemma2", "bloom"):  # transformers' float64 eager attention gives NaN beside padding
        assert torch.equal(top_token_counts(model, tokenizer, texts("fr"), top), counts)


def test_shares_are_those_of_the_highest_likelihood():
    """At a maximum over shares with sum 1, the derivative is 1 for shares above 0 and at most 1 for the others."""
    generator = torch.Generator().manual_seed(0)
    confidences = torch.rand(300, 6, generator=generator) ** 3
    confidences /= confidences.sum(1, keepdim=True)
    confidences[:30] = 0
    counts = torch.randint(0, 9, (4, 300), generator=generator)
    counts[3, 30:] = 0
    shares = language_shares(counts, confidences)
    assert shares.shape == (4, 7) and torch.allclose(shares.sum(1), torch.ones(4).double())
    assert shares[:, 6].tolist() == pytest.approx((counts[:, :30].sum(1) / counts.sum(1)).tolist())
    assert shares[3, 6] == 1 and (shares[3, :6] == 0).all()
    for layer in range(3):
        s = shares[layer, :6] / shares[layer, :6].sum()
        weights, informative = counts[layer, 30:].double(), confidences[30:].double()
        derivative = informative.T @ (weights / (informative @ s)) / weights.sum()
        assert (derivative < 1.01).all() and ((derivative - 1).abs() * s < 1e-3).all()


def test_shared_pieces_count_for_the_languages_of_the_other_tokens():
    confidences = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 0.0]])
    shares = language_shares(torch.tensor([[8, 1, 1], [0, 9, 1], [6, 0, 2]]), confidences)
    assert shares[0].tolist() == pytest.approx([0.9, 0, 0.1], abs=1e-3)
    assert shares[1].tolist() == pytest.approx([0.9, 0, 0.1], abs=1e-3)
    assert shares[2].tolist() == pytest.approx([0.375, 0.375, 0.25])


@pytest.mark.parametrize("language", demo_model.LANGUAGES)
def test_the_last_layer_decodes_to_the_language_of_the_text(trained, language):
    model, tokenizer, _ = trained
    table = lens(model, tokenizer, demo_model.heldout()[language][:25], languages=demo_model.LANGUAGES)
    assert list(table.columns) == ["layer", "language", "share"] and len(table) == 7 * 9
    assert table.groupby("layer")["share"].sum().tolist() == pytest.approx([1] * 7)
    last = table[table["layer"] == 6].set_index("language")["share"]
    assert last[language] > 0.65 and last["other"] < 0.3
    assert last.drop(["other", language]).max() < 0.06
    first = table[(table["layer"] == 0) & (table["language"] == language)]["share"].item()
    assert first < last[language] / 2


@pytest.mark.parametrize("shares", [{"en": 0.5, "fr": 0.5}, {"es": 0.8, "fr": 0.2}, {"en": 0.3, "de": 0.3, "tr": 0.4}])
def test_shares_of_mixed_texts_are_those_of_the_mixture(trained, shares):
    """The counts are those of the tokens of texts, whose languages are known."""
    _, tokenizer, confidences = trained
    counts = torch.zeros(1, len(confidences), dtype=torch.float64)
    for language, share in shares.items():
        tokens = [token for text in demo_model.heldout()[language][:200] for token in tokenizer(text)["input_ids"]]
        counted = torch.bincount(torch.tensor(tokens), minlength=len(confidences)).double()
        counted[~confidences.any(1)] = 0
        counts[0] += 1e6 * share * counted / counted.sum()
    estimated = dict(zip(demo_model.LANGUAGES, language_shares(counts, confidences)[0].tolist()))
    for language in demo_model.LANGUAGES:
        assert estimated[language] == pytest.approx(shares.get(language, 0), abs=0.08)


def test_confidences_tell_the_languages_of_tokens(trained):
    _, tokenizer, confidences = trained
    codes = list(demo_model.LANGUAGES)

    def confidences_of(text: str) -> torch.Tensor:
        (token,) = tokenizer(text, add_special_tokens=False)["input_ids"]
        return confidences[token]

    assert confidences_of(" the").argmax() == codes.index("en") and confidences_of(" und").argmax() == codes.index("de")
    assert confidences_of("\u4e2d\u56fd")[codes.index("zh")] == 1 and confidences_of("\u0915")[codes.index("hi")] == 1
    assert not confidences_of(",").any() and not confidences[tokenizer.bos_token_id].any()
    assert confidences.shape == (8000, 8) and ((confidences.sum(1) - 1).abs() < 1e-3).sum() > 7000
    assert token_confidences(tokenizer, demo_model.LANGUAGES, 8000) is confidences  # from the cache
    wider = token_confidences(tiny_tokenizer(), ("en", "de"), VOCABULARY_SIZE + 5)
    assert wider.shape == (VOCABULARY_SIZE + 5, 2) and not wider[VOCABULARY_SIZE:].any()


def test_unknown_repeated_and_too_few_languages_are_refused():
    assert {"en", "de", "fr", "es", "ru", "zh", "tr", "hi"} < set(lens_language_codes())
    assert lens_language_codes(iter(["fr", "en"])) == ("fr", "en")
    with pytest.raises(ValueError, match=r"languages must be among af, .*, got 'xx'"):
        lens_language_codes(["en", "xx"])
    for few in ([], ["en"], ["en", "en"]):
        with pytest.raises(ValueError, match="two or more different ones"):
            lens_language_codes(few)


def test_wrong_arguments_are_refused(monkeypatch):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    with pytest.raises(pml.CorpusError, match="no documents to decode: texts 1, empty 1"):
        lens(model, tokenizer, [" "])
    for top in (0, VOCABULARY_SIZE + 1):
        with pytest.raises(ValueError, match="top must be between 1 and the 61 tokens"):
            lens(model, tokenizer, ["w4 w5"], top=top)
    with pytest.raises(pml.UnsupportedModel, match="language-model head"):
        lens(model.model, tokenizer, ["w4 w5"])
    monkeypatch.setitem(sys.modules, "lingua", None)
    with pytest.raises(pml.BackendUnavailable, match="pymultiling\\[lens\\]"):
        lens(model, tokenizer, ["w4 w5"])


def test_no_hooks_are_left_on_the_model():
    model = tiny_model("llama").train()
    table = lens(model, tiny_tokenizer(), ["w4 w5", "w6 w7 w8"], languages=["en", "de"], top=2)
    assert isinstance(table, pandas.DataFrame) and len(table) == 3 * 3
    assert model.training and not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_weights_that_are_nan_are_an_error():
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(
        pml.NonFiniteActivations, match=r"document [0-9] of its corpus: hidden states of index 2 are NaN"
    ):
        lens(model, tiny_tokenizer(), texts("fr"))
