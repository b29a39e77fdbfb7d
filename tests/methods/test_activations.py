"""pml.activations against counts from plain hooks, in float64."""

import gzip
import json

import pytest
import torch
import transformers.activations
from tokenizers import normalizers

import pymultiling as pml
from pymultiling import demo_model
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import tokenise_pairs
from pymultiling.probes.activation_counts import SIGN_PRESERVING_ACTIVATIONS, ActivationProbe
from pymultiling.probes.verification.entry import unverified
from tests.support.anatomy import experts_of, ffn_modules, layers_of, routed_gate_and_up, sizes
from tests.support.tiny_models import ENCODERS, REPRESENTATIVE_MODELS, tiny_batch, tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer, write_text

CORPORA = {language: texts(language) for language in ("fr", "de")}
PAIRS = [(prompt, f" {response}") for prompt, response in zip(texts("fr"), texts("de", seed=1))]


def activation_of(model):
    """The activation function of the FFN; that of Bloom by its name in transformers."""
    if model.config.model_type == "bloom":
        return transformers.activations.ACT2FN["gelu_pytorch_tanh"]
    names = ("hidden_activation", "hidden_act", "activation_function", "activation")
    name = next(value for name in names if (value := getattr(model.config, name, None)))
    return transformers.activations.ACT2FN[name]


def hook_gates(model, on_gate) -> list:
    """Registers hooks that call on_gate(gate), (tokens, neurons), in every layer; returns their handles.

    The gate of an expert that a token is not routed to is -1, at which a neuron is not active.
    """
    width, handles = sizes(model.config)["ffn"], []

    def hook_experts(experts, args) -> None:
        on_gate(routed_gate_and_up(experts, *args[:2], -1.0)[0])

    for layer in layers_of(model):
        if experts_of(layer) is not None:
            handles.append(experts_of(layer).register_forward_pre_hook(hook_experts))
        else:
            gate = ffn_modules(layer)[0]
            handles.append(
                gate.register_forward_hook(lambda _, args, output: on_gate(output[..., :width].reshape(-1, width)))
            )
    return handles


def plain_gates(model, tokens: list[int]) -> torch.Tensor:
    """Returns act(gate) of one document, (layers, tokens, neurons), in float64, from the values of the model."""
    act = activation_of(model)
    gates = []
    handles = hook_gates(model, gates.append)
    with torch.no_grad():
        model(input_ids=torch.tensor([tokens]), use_cache=False)
    for handle in handles:
        handle.remove()
    return torch.stack([act(gate.double()) for gate in gates])


def plain_count(model, documents, positions=slice(None)) -> tuple[torch.Tensor, int]:
    gates = [plain_gates(model, tokens)[:, positions] for tokens in documents]
    return sum((gate > 0).sum(1) for gate in gates), sum(gate.shape[1] for gate in gates)


def assert_counts(counts: pml.ActivationStatistics, expected: tuple[torch.Tensor, int]) -> None:
    assert counts.active.dtype == torch.int64 and counts.tokens == expected[1] and counts.active.any()
    assert torch.equal(counts.active, expected[0])


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", [*REPRESENTATIVE_MODELS, *ENCODERS])
def test_counts_of_a_batch_are_those_of_the_gates_of_the_same_forward(name, dtype, padding):
    """bfloat16 gates depend on the shape of the product, so the plain count is that of the measured batch."""
    if padding != "none" and name in ("gemma2", "bloom") and dtype == torch.float64:
        pytest.skip("transformers' float64 eager attention gives NaN beside padding")
    model = tiny_model(name, dtype)
    batch = tiny_batch((11, 11) if padding == "none" else (11, 7), padding="right" if padding == "none" else padding)
    act = activation_of(model)
    gates, shape, width = [], (*batch["input_ids"].shape, -1), sizes(model.config)["ffn"]
    with unverified():  # the hooks count this batch alone
        probe = ActivationProbe(model)
    hook_gates(model, lambda gate: gates.append(gate.double().view(shape)))
    for counted in (batch["attention_mask"].bool(), batch["attention_mask"].bool() & (torch.arange(11) > 4)):
        gates.clear()
        active = probe.measure(**batch, counted=counted)
        expected = torch.stack([(act(gate) > 0)[counted].sum(0) for gate in gates])
        assert torch.equal(active, expected) and active.shape == (2, width) and active.any()


@pytest.mark.parametrize("name", [*REPRESENTATIVE_MODELS, *ENCODERS])
def test_counts_of_a_corpus_are_those_of_its_documents_one_by_one(name):
    model, tokenizer = tiny_model(name), tiny_tokenizer()
    counts = pml.activations(model, tokenizer, CORPORA, max_length=11, batch_tokens=24, progress=False)
    last = pml.activations(model, tokenizer, CORPORA, positions="last", max_length=11, batch_tokens=24, progress=False)
    for language, corpus in CORPORA.items():
        documents = [tokenizer(text)["input_ids"][:11] for text in corpus]
        assert_counts(counts[language], plain_count(model, documents))
        assert_counts(last[language], plain_count(model, documents, slice(-1, None)))
        assert last[language].tokens == len(corpus) and counts.corpora[language].cut == 1


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_response_counts_are_prompt_and_response_minus_the_prompt(name):
    model, tokenizer = tiny_model(name), tiny_tokenizer()
    options = {"max_length": 64, "batch_tokens": 64, "progress": False}
    directly = pml.activations(model, tokenizer, {"x": PAIRS}, positions="response", **options)["x"]
    both = pml.activations(model, tokenizer, {"x": [prompt + response for prompt, response in PAIRS]}, **options)["x"]
    prompts = pml.activations(model, tokenizer, {"x": [prompt for prompt, _ in PAIRS]}, **options)["x"]
    assert_counts(directly, ((both - prompts).active, (both - prompts).tokens))
    assert directly.tokens == sum(len(response.split()) for _, response in PAIRS)
    documents = [tokenizer(prompt + response)["input_ids"] for prompt, response in PAIRS]
    starts = [len(tokenizer(prompt)["input_ids"]) for prompt, _ in PAIRS]
    gates = [plain_gates(model, tokens)[:, start:] for tokens, start in zip(documents, starts)]
    assert_counts(directly, (sum((gate > 0).sum(1) for gate in gates), directly.tokens))


def test_response_counts_of_a_trained_model_with_subwords_are_a_difference_of_counts():
    model, tokenizer = demo_model.load()
    pairs = [
        (text[:40].rsplit(" ", 1)[0], text[len(text[:40].rsplit(" ", 1)[0]) :])
        for text in demo_model.heldout()["en"][:8]
    ]
    options = {"batch_tokens": 600, "progress": False}
    directly = pml.activations(model, tokenizer, {"en": pairs}, positions="response", **options)["en"]
    both = pml.activations(model, tokenizer, {"en": [a + b for a, b in pairs]}, **options)["en"]
    prompts = pml.activations(model, tokenizer, {"en": [a for a, _ in pairs]}, **options)["en"]
    assert_counts(directly, ((both - prompts).active, (both - prompts).tokens))
    assert 0.1 < directly.proportion.mean() < 0.9


def test_the_response_begins_where_the_tokens_first_differ_from_the_prompts_own():
    _, tokenizer = demo_model.load()
    ((tokens, start),) = tokenise_pairs([("The mount", "ains are high.")], tokenizer, 64, CorpusReport())
    assert tokens == tokenizer("The mountains are high.")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(tokens[:start]) == ["<s>", "The", "\u0120m"]  # then ou-nt, and oun-ta-ins


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet"])
def test_pairs_from_files_give_the_counts_of_pairs_in_memory(tmp_path, ending):
    path = tmp_path / f"pairs.{ending}"
    rows = [{"prompt": prompt, "response": response} for prompt, response in PAIRS]
    if ending == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    else:
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()

    def count(source) -> pml.ActivationStatistics:
        return pml.activations(model, tokenizer, {"x": source}, positions="response", progress=False)["x"]

    expected = count(PAIRS)
    assert_counts(count(path), (expected.active, expected.tokens))
    assert_counts(count(rows), (expected.active, expected.tokens))


def test_pairs_without_tokens_are_left_out_and_counted():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer(bos=False)
    pairs = [("w3", " w4 w5"), ("", "\u200b"), ("w6 w7", " w8")]
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    counts = pml.activations(model, tokenizer, {"fr": pairs}, positions="response", progress=False)
    assert counts.corpora["fr"] == CorpusReport(texts=3, short=1) and counts["fr"].tokens == 3


def test_wrong_arguments_and_corpora_are_refused(tmp_path):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()

    def count(source, **options):
        return pml.activations(model, tokenizer, {"fr": source}, progress=False, **options)

    with pytest.raises(ValueError, match="positions must be one of all, last, response, got 'first'"):
        count(["w3 w4"], positions="first")
    with pytest.raises(ValueError, match="not packed"):
        count(PAIRS, positions="response", pack=8)
    with pytest.raises(pml.CorpusError, match="no corpora"):
        pml.activations(model, tokenizer, {})
    with pytest.raises(pml.CorpusError, match="'fr' has no positions to count: texts 2, empty 2"):
        count(["", " "])
    with pytest.raises(pml.CorpusError, match="'fr' has no positions to count: texts 1, empty 1"):
        count([("w3 w4", " ")], positions="response")
    with pytest.raises(pml.CorpusError, match="'fr' has no positions to count: texts 1, cut 1"):
        count([("w3 w4 w5 w6", " w7")], positions="response", max_length=4)
    with pytest.raises(pml.CorpusError, match="record 1: expected an object with strings 'prompt' and 'response'"):
        count(["w3 w4"], positions="response")
    with pytest.raises(pml.CorpusError, match=r"has no prompt and response: give a .jsonl"):
        count(write_text(tmp_path / "a.txt", ["w3 w4"]), positions="response")
    with pytest.raises(pml.CorpusError, match="no column 'prompt', only text"):
        count(write_text(tmp_path / "a.parquet", ["w3 w4"]), positions="response")


def test_nan_stops_with_layer_site_and_document():
    model = tiny_model("llama")
    model.model.layers[1].mlp.gate_proj.weight.data[5] = torch.nan
    with pytest.raises(
        pml.NonFiniteActivations, match=r"language 'fr', document 2 of its corpus: .* site ffn, layer 1"
    ):
        pml.activations(model, tiny_tokenizer(), {"fr": ["w3 w4", "w3 w4 w5"]}, progress=False)


def test_nan_after_all_ffns_stops_with_the_document_and_advice():
    """NaN in the last norm reaches the model's output and no neuron, so that no site and no layer can be named."""
    model = tiny_model("llama")
    model.model.norm.weight.data[0] = torch.nan
    message = (
        r"language 'fr', document 1 of its corpus: NaN or infinite output of document 1 of the batch: look for NaN"
    )
    with pytest.raises(pml.NonFiniteActivations, match=message):
        pml.activations(model, tiny_tokenizer(), {"fr": ["w3 w4"]}, progress=False)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_measuring_leaves_the_output_bit_for_bit(name):
    model, batch = tiny_model(name, torch.bfloat16), tiny_batch()
    probe, outputs = ActivationProbe(model), []
    handle = model.model.register_forward_hook(lambda _, args, output: outputs.append(output[0]))
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        model.model(**batch, position_ids=positions, use_cache=False)
    probe.measure(**batch, counted=batch["attention_mask"].bool())
    handle.remove()
    is_token = batch["attention_mask"].bool()
    assert torch.equal(*(output[is_token] for output in outputs))


@pytest.mark.parametrize("name", SIGN_PRESERVING_ACTIVATIONS)
def test_sign_keeping_activations_are_positive_where_their_input_is(name):
    x = torch.cat([torch.linspace(-30, 30, 6001), torch.tensor([1e-30, -1e-30, 0.0, -0.0])]).double()
    assert torch.equal(transformers.activations.ACT2FN[name](x) > 0, x > 0)


def test_an_activation_of_another_kind_is_refused():
    model = tiny_model("llama")
    model.config.hidden_act = "sigmoid"
    with pytest.raises(pml.UnsupportedModel, match="'sigmoid'; looked for one of silu"):
        ActivationProbe(model)
