"""Encoders against brute force: tokens see all others of their document, and norms come behind the residual's sum."""

from dataclasses import replace

import pytest
import torch
import transformers

import pymultiling as pml
from pymultiling.cli import main
from pymultiling.models.decoder import Decoder
from pymultiling.models.families import FAMILIES, family_of
from pymultiling.models.loading import load_model
from pymultiling.models.positions import position_limit
from pymultiling.probes.importance import ImportanceProbe
from pymultiling.probes.verification.zeroing import spot_check
from tests.probes.test_masking import difference
from tests.support.anatomy import attention_of, layers_of
from tests.support.brute_force import brute_force
from tests.support.comparison import (
    TOLERANCE,
    largest_error,
)
from tests.support.tiny_models import (
    ENCODERS,
    PAIRS,
    WITH_NORMS_BEFORE,
    hidden_of,
    random_neurons,
    tiny_batch,
    tiny_model,
    with_zeroed_neurons,
)
from tests.support.tiny_text import save_model, texts, tiny_tokenizer, write_text

HEADS = {
    "without a head": transformers.AutoModel,
    "a classifier of texts": transformers.AutoModelForSequenceClassification,
    "a classifier of tokens": transformers.AutoModelForTokenClassification,
    "a finder of answers": transformers.AutoModelForQuestionAnswering,
}


WITH_NORMS_BEHIND = [
    name for name in ENCODERS if name not in (*WITH_NORMS_BEFORE, "modernbert", "xmod-norm-of-adapters")
]


@pytest.mark.parametrize("name", ENCODERS)
def test_a_document_has_the_same_values_alone_and_beside_padding(name):
    """Also where the document has the token that the vocabulary has for padding."""
    model = tiny_model(name, torch.float64)
    alone = torch.tensor([[5, 9, model.config.pad_token_id, 17, 4, 11]])
    expected = pml.importance(model, alone)
    for padding in (0, 1):  # on the left, on the right
        row = torch.cat([torch.full((1, 5), 0), alone][:: 1 - 2 * padding], 1)
        mask = torch.cat([torch.zeros(1, 5), torch.ones(1, 6)][:: 1 - 2 * padding], 1).long()
        batch = torch.cat([torch.randint(3, 60, row.shape), row]), torch.cat([torch.ones_like(mask), mask])
        values = pml.importance(model, *batch)
        for site in pml.SITES:
            torch.testing.assert_close(values[site][1:], expected[site], rtol=1e-6, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", ENCODERS | PAIRS)
def test_hidden_states_are_those_of_transformers_with_the_same_positions(name, padding):
    model, batch = tiny_model(name), tiny_batch((33, 17, 1), padding)
    expected, states = hidden_of(model, batch), Decoder(model).forward(**batch)[0]
    is_token = batch["attention_mask"].bool()
    assert torch.equal(states[is_token], expected[is_token])


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODERS)
def test_deactivated_neurons_act_as_zeroed_ones(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch()
    neurons = random_neurons(model)
    plain, is_token = model(**batch).logits, batch["attention_mask"].bool()
    with pml.deactivate(model, neurons):
        deactivated = model(**batch).logits
    truth = with_zeroed_neurons(model, neurons)(**batch).logits
    assert difference(deactivated[is_token], truth[is_token]) < 1e-9 < 1e-2 < difference(plain, truth)


@pytest.mark.parametrize("name", ENCODERS)
def test_short_documents_have_the_same_values_in_fast_mode(name):
    """A query of a document of up to 16 tokens sees no more keys than the estimate takes."""
    model, batch = tiny_model(name, torch.float64), tiny_batch((16, 9), "left")
    exact, fast = (pml.importance(model, **batch, qk=mode) for mode in ("exact", "fast"))
    for site in ("q", "k"):
        torch.testing.assert_close(fast[site], exact[site], rtol=1e-9, atol=0)


def test_detect_averages_the_importance_of_the_documents():
    model, tokenizer = tiny_model("xlm-roberta"), tiny_tokenizer()
    detection = pml.detect(model, tokenizer, {"fr": texts("fr"), "de": texts("de")}, progress=False)
    for language in ("fr", "de"):
        documents = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts(language)]
        for site in pml.SITES:
            values = torch.stack([pml.importance(model, tokens)[site][0].double() for tokens in documents])
            mean = detection.statistics[language].mean(site).double()
            torch.testing.assert_close(mean, values.mean(0), rtol=1e-4, atol=1e-7)


def test_only_the_queries_that_count_are_summed():
    """Keys of all tokens of the document are seen by them, also of those that come after."""
    model = tiny_model("bert", torch.float64)
    tokens, counted = torch.randint(3, 60, (1, 9)), torch.arange(9)[None] > 5
    truth = brute_force(model, tokens, torch.ones_like(tokens), counted)
    with ImportanceProbe(model) as probe:
        values, _ = probe.launch(tokens, torch.ones_like(tokens), counted)
    for site in pml.SITES:
        assert largest_error(values[site], truth[site]) < TOLERANCE[torch.float64]


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ENCODERS)
def test_other_heads_have_the_same_neurons(name, head, tmp_path):
    """Importance is bit for bit that with the other head. Commands load the head that was saved."""
    encoder, batch = tiny_model(name), tiny_batch()
    model = HEADS[head].from_config(encoder.config).eval()
    model.base_model.load_state_dict(encoder.base_model.state_dict(), strict=False)  # not the pooler
    expected, values = pml.importance(encoder, **batch), pml.importance(model, **batch)
    assert all(torch.equal(values[site], expected[site]) for site in pml.SITES)
    neurons = random_neurons(model)
    plain, truth = model(**batch)[0], with_zeroed_neurons(model, neurons)(**batch)[0]
    with pml.deactivate(model, neurons):
        assert difference(model(**batch)[0], truth) < 1e-5 < 1e-3 < difference(plain, truth)
    save_model(tmp_path, model)
    loaded, _ = load_model(str(tmp_path), torch.device("cpu"))
    assert type(loaded) is type(model) and torch.equal(loaded(**batch)[0], plain)


@pytest.mark.parametrize("name", ENCODERS)
def test_commands_measure_encoders_and_doctor_names_no_slow_kernel(name, tmp_path, capsys):
    model = save_model(tmp_path / "model", tiny_model(name))
    assert type(load_model(str(model), torch.device("cpu"))[0]).__name__.endswith("ForMaskedLM")
    assert main(["doctor", "--model", str(model)]) == 0
    assert "plain PyTorch" not in capsys.readouterr().out
    corpora = [f"--corpus={name}={write_text(tmp_path / f'{name}.txt', texts(name))}" for name in ("fr", "de")]
    options = ["--ffn=0.2", "--attention=0.2", "--share=0.5", "--pack=none", "--quiet"]
    assert main(["detect", "--model", str(model), *corpora, *options, "--out", str(tmp_path / "found")]) == 0
    assert len(pml.NeuronSet.load(tmp_path / "found" / "neurons" / "fr.safetensors"))


def test_doctor_finds_agreement():
    for name in ENCODERS:
        assert max(spot_check(tiny_model(name, torch.float64)).values()) < 1e-6


def test_what_predicts_tokens_is_refused():
    model, tokenizer = tiny_model("xlm-roberta"), tiny_tokenizer()
    # transformers also loads encoders as causal language models, whose tokens see those after them all the same.
    causal = transformers.XLMRobertaForCausalLM(model.config).eval()
    for encoder in (model, causal):
        for function, arguments in ((pml.perplexity, texts("fr")), (pml.lens, {"fr": texts("fr")})):
            with pytest.raises(
                pml.UnsupportedModel, match=r"is an encoder, whose tokens see those after them.*a decoder"
            ):
                function(encoder, tokenizer, arguments)
        pml.train_only(encoder, random_neurons(encoder))
        with pytest.raises(pml.UnsupportedModel, match=r"is an encoder.*to learn to predict the next token takes"):
            pml.fine_tune(encoder, tokenizer, texts("fr"))


def test_documents_are_as_long_as_the_positions_behind_that_of_padding_allow():
    assert position_limit(tiny_model("xlm-roberta")) == 80 - 3
    assert position_limit(tiny_model("bert")) == 64
    model, text = tiny_model("xlm-roberta"), [" ".join(["w5"] * 200)]
    counts = pml.activations(model, tiny_tokenizer(), {"fr": text}, max_length=512, progress=False)["fr"]
    assert counts.tokens == 77


@pytest.mark.parametrize("window", [3, 4, 6, None])
def test_a_window_that_is_not_the_models_is_refused(window):
    """In modernbert the window of layer 0 reaches 4 tokens to either side, of which its attention says 5."""
    model = tiny_model("modernbert")
    attention = layers_of(model)[0].attn
    assert attention.sliding_window == 5
    attention.sliding_window = window
    with pytest.raises(pml.UnsupportedModel, match=rf"layers.0.attn computes other attention.*window {window}"):
        pml.importance(model, **tiny_batch(), sites="q")


def test_decoders_of_these_families_are_refused():
    config = replace_config(tiny_model("bert").config, is_decoder=True)
    with pytest.raises(pml.UnsupportedModel, match=r"this bert is a decoder .is_decoder in its configuration.*"):
        pml.importance(transformers.BertLMHeadModel(config), **tiny_batch())


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(default_language=None), r"set_default_language\(...\) with one of en_XX, fr_XX"),
        (dict(adapter_reuse_layer_norm=False), "has no norm between its FFN and the adapters of the language"),
    ],
)
def test_configurations_of_xmod_that_cannot_be_measured_are_refused(changes, message):
    with pytest.raises(pml.UnsupportedModel, match=message):
        pml.importance(tiny_model("xmod", **changes), **tiny_batch())


def test_xmod_is_measured_with_the_adapters_of_its_language():
    """Those of the second layer see what the adapters of the first one return."""
    model, batch = tiny_model("xmod"), tiny_batch()
    french = pml.importance(model, **batch)
    model.set_default_language("en_XX")
    english = pml.importance(model, **batch)
    for site in pml.SITES:
        assert torch.equal(french[site][:, 0], english[site][:, 0])
        assert largest_error(french[site][:, 1:], english[site][:, 1:].double()) > 1e-2


def test_an_electra_that_tells_replaced_tokens_is_loaded_as_it_was_saved(tmp_path):
    model = transformers.ElectraForPreTraining(tiny_model("electra").config).eval()
    save_model(tmp_path, model)
    loaded, _ = load_model(str(tmp_path), torch.device("cpu"))
    assert type(loaded) is type(model)
    assert torch.equal(loaded(**tiny_batch())[0], model(**tiny_batch())[0])


def replace_config(config, **changes):
    """Returns a copy of a configuration with other values."""
    return type(config)(**{**config.to_dict(), **changes})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"causal": True}, "the attention of layer 0 is not causal, and by its family's entry it is"),
        ({"core": "output"}, "site q was seen in 0 of 2 layers"),
        (
            {"sum_norms": ("output.LayerNorm", "attention.output.LayerNorm")},
            "does not run behind the last projection of its sublayer",
        ),
        ({"final": ("encoder.layer.0.output.LayerNorm",)}, "the last hidden state is not what"),
    ],
)
def test_wrong_entries_are_refused(monkeypatch, changes, message):
    def measure(model) -> None:
        pml.importance(model, **tiny_batch())
        pml.sentence_embeddings(model, tiny_tokenizer(), {"fr": texts("fr")}, progress=False)

    model = tiny_model("bert")
    monkeypatch.setitem(FAMILIES, "bert", replace(family_of(model), **changes))
    with pytest.raises(pml.UnsupportedModel, match=message):
        measure(model)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sums": ()}, r"layer.0.attention does not return the output of \S*layer.0.attention.output.dense"),
        ({"sums": ("attention.self",)}, "attention.self does not run behind the last projection of its sublayer"),
        ({"interface": True}, "site q was seen in 0 of 2 layers"),
        ({"sums": (), "sum_norms": ("attention.ln", "ln")}, "attention.ln does not run behind the last projection"),
    ],
)
def test_wrong_entries_of_an_encoder_with_norms_before_are_refused(monkeypatch, changes, message):
    model = tiny_model("megatron-bert")
    monkeypatch.setitem(FAMILIES, "megatron-bert", replace(family_of(model), **changes))
    with pytest.raises(pml.UnsupportedModel, match=message):
        pml.importance(model, **tiny_batch())


def double_output(model) -> None:
    """Doubles what the attention adds to the residual in layer 1."""
    _double(layers_of(model)[1].attention.output)


def double_ffn(model) -> None:
    """Doubles what the FFN adds to the residual in layer 1."""
    _double(layers_of(model)[1].output)


def _double(output) -> None:
    norm = getattr(output, "LayerNorm", torch.nn.Identity())  # where norms come before, their modules have none
    output.forward = lambda states, residual, *_: norm(2 * output.dense(states) + residual)


def double_attention(model) -> None:
    """Doubles what the attention of layer 1 returns, with the residual."""
    attention = layers_of(model)[1].attention
    forward = attention.forward

    def forward_twice(*args, **kwargs):
        output, *others = forward(*args, **kwargs)
        return (2 * output, *others)

    attention.forward = forward_twice


def hide_later_tokens(model) -> None:
    """Makes the attention of layer 1 causal, whatever its attribute says."""
    core = attention_of(layers_of(model)[1], model.config).self
    forward = core.forward

    def forward_causal(states, attention_mask=None, **arguments):
        length = states.shape[1]
        mask = torch.full((length, length), -1e30).triu(1)[None, None].expand(len(states), 1, -1, -1)
        return forward(states, attention_mask=mask, **arguments)

    core.forward = forward_causal


def rectify(model) -> None:
    """Gives layer 1 another activation than the configuration names."""
    layers_of(model)[1].intermediate.intermediate_act_fn = torch.nn.ReLU()


@pytest.mark.parametrize(
    "plant, sites, message",
    [
        (double_output, ("o", "v"), "layer.1.attention.output.LayerNorm does not get the residual plus the output of"),
        (double_ffn, ("ffn",), "layer.1.output.LayerNorm does not get the residual plus the output of"),
        (hide_later_tokens, ("q", "k"), "layer.1.attention computes other attention than.*None, not causal"),
    ],
)
@pytest.mark.parametrize("name", WITH_NORMS_BEHIND)
def test_planted_departures_are_refused(name, plant, sites, message):
    model = tiny_model(name)
    plant(model)
    assert_refused_at(model, sites, message)


@pytest.mark.parametrize(
    "plant, sites, message",
    [
        (
            double_output,
            ("o", "v"),
            r"layer.1.attention.output does not return the output of \S*attention.output.dense",
        ),
        (double_attention, ("o", "v"), r"layer.1.attention does not return the output of \S*attention.output \("),
        (double_ffn, ("ffn",), r"layer.1.output does not return the output of \S*layer.1.output.dense"),
        (hide_later_tokens, ("q", "k"), "layer.1.attention computes other attention than.*None, not causal"),
    ],
)
@pytest.mark.parametrize("name", WITH_NORMS_BEFORE)
def test_planted_departures_where_norms_come_before_are_refused(name, plant, sites, message):
    if name.startswith("xmod") and plant is double_ffn:
        pytest.skip("what the FFN's module returns has passed the adapters of the language")
    model = tiny_model(name)
    plant(model)
    assert_refused_at(model, sites, message)


def assert_refused_at(model, sites, message: str) -> None:
    """Checks that importance at these sites is refused, and measured at the others."""
    for site in sites:
        with pytest.raises(pml.UnsupportedModel, match=message):
            pml.importance(model, **tiny_batch(), sites=site)
    others = [site for site in pml.SITES if site not in (*sites, "v")]
    assert set(pml.importance(model, **tiny_batch(), sites=others)) == set(others)


def test_another_activation_is_refused_where_neurons_are_counted():
    model = tiny_model("bert")
    rectify(model)
    with pytest.raises(pml.UnsupportedModel, match=r"down projection is not gelu_new.up"):
        pml.activations(model, tiny_tokenizer(), {"fr": texts("fr")}, progress=False)


@pytest.mark.parametrize(
    "fields",
    [
        {"causal": False, "q_norm": "q_norm", "k_norm": "k_norm"},
        {"causal": False, "alibi": "added", "interface": False, "rotation": None},
        {"sum_norms": ("a", "b"), "ffn": "mlp"},
        {"sums": ("a", "b"), "ffn": "mlp", "ffn_alone": False},
        {"sums": ("a", "b"), "ffn": "", "ffn_alone": False, "sum_norms": ("a", "b")},
    ],
)
def test_entries_that_contradict_themselves_are_refused(fields):
    with pytest.raises(ValueError, match=r"causal=False needs|sum_norms needs|sums needs"):
        pml.Family(**fields)
