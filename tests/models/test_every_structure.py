"""One model of each kind of structure, the whole way: detect, counts, LAPE, sets by row, generation and perplexity.

What is measured is compared with loops over documents and with copies of the model whose weights are zeroed by hand.
"""

import copy
import math

import pytest
import torch

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from tests.models.test_multimodal_models import multimodal_model
from tests.probes.test_masking import difference
from tests.support.anatomy import (
    base_of,
    experts_of,
    ffn_modules,
    layer_sizes,
    layers_of,
    routed_gate_and_up,
    shared_expert_of,
    sizes,
    zero_neuron,
)
from tests.support.tiny_models import PAIRS, random_neurons, tiny_batch, tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer

DECODERS = (
    "Gemma3",  # it takes images too
    "qwen2_moe",  # experts, and one that all tokens pass
    "gpt_oss",  # attention sinks
    "afmoe",  # a gate on the attention's output, from a projection of its own
    "qwen3_5_text",  # a gate on the attention's output, and layers of linear attention
    "deepseek_v3",  # multi-head latent attention
    "qwen3_next-half-dense",  # widths that differ by layer
    "gemma4_text",  # the same, and keys and values of earlier layers
)
ENCODERS = ("xlm-roberta", "modernbert")
ALL = (*DECODERS, *ENCODERS, *PAIRS)
CORPORA = {language: texts(language) for language in ("fr", "de")}
PASSES = dict(progress=False, workers=0)


def make_model(name: str):
    return multimodal_model(name) if name == "Gemma3" else tiny_model(name)


def measured_part(model):
    """Returns the part of a model that has the neurons."""
    if model.config.is_encoder_decoder:
        return model.get_encoder()
    return model.get_decoder() if hasattr(model.config, "vision_config") else model


def random_set(model, seed: int = 0, fraction: float = 0.2) -> pml.NeuronSet:
    part = model if model.config.is_encoder_decoder else measured_part(model)
    return random_neurons(part, fraction, seed=seed)


def zeroed_by_hand(model, neurons: pml.NeuronSet):
    """Returns a copy in which the parameters of these neurons are zero."""
    model = copy.deepcopy(model)
    part = model if model.config.is_encoder_decoder else measured_part(model)
    for site, mask in neurons.sites.items():
        for layer, n in mask.nonzero().tolist():
            zero_neuron(layers_of(part)[layer], site, n, part.config)
    return model


@torch.no_grad()
def positive_gates(model, documents) -> torch.Tensor:
    """Returns in how many tokens of documents, run one by one, the gate of each FFN neuron is above 0."""
    part = model if model.config.is_encoder_decoder else measured_part(model)
    config = part.config
    active = torch.zeros(config.num_hidden_layers, sizes(config)["ffn"], dtype=torch.int64)
    handles = []
    for number, layer in enumerate(layers_of(part)):

        def count(gate, place: slice, number=number) -> None:
            active[number, place] += (gate.flatten(0, -2) > 0).sum(0)

        experts, shared = experts_of(layer), shared_expert_of(layer)
        width = layer_sizes(config, number)["ffn"]
        if experts is None:
            gate = ffn_modules(layer)[0]
            handles.append(
                gate.register_forward_hook(lambda _, args, out, count=count, w=width: count(out[..., :w], slice(0, w)))
            )
            continue
        routed = width - (shared.gate_proj.out_features if shared is not None else 0)
        handles.append(
            experts.register_forward_pre_hook(
                lambda module, args, count=count, n=routed: count(
                    routed_gate_and_up(module, *args[:2], -1.0)[0], slice(0, n)
                )
            )
        )
        if shared is not None:
            handles.append(
                shared.gate_proj.register_forward_hook(
                    lambda _, args, out, count=count, n=routed, w=width: count(out, slice(n, w))
                )
            )
    run = measured_part(model) if model.config.is_encoder_decoder else base_of(part)
    for tokens in documents:
        run(input_ids=tokens)
    for handle in handles:
        handle.remove()
    return active


def documents_of(language: str) -> list[torch.Tensor]:
    return [torch.tensor([tiny_tokenizer()(text)["input_ids"]]) for text in CORPORA[language]]


@torch.no_grad()
def plain_perplexity(model, language: str) -> float:
    losses = []
    for tokens in documents_of(language):
        logs = model(input_ids=tokens).logits[0].log_softmax(-1)
        losses += [-logs[place, token].item() for place, token in enumerate(tokens[0, 1:])]
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize("name", ALL)
def test_detect_averages_the_documents_and_its_sets_fit_the_model(name):
    model = make_model(name)
    select = pml.TopK(0.2, 0.2, share=0.5)
    detection = pml.detect(model, tiny_tokenizer(), CORPORA, select=select, **PASSES)
    for language in CORPORA:
        measured = [pml.importance(model, tokens) for tokens in documents_of(language)]
        for site in pml.SITES:
            mean = torch.stack([values[site][0].double() for values in measured]).mean(0)
            of_language = detection.statistics[language].mean(site).double()
            torch.testing.assert_close(of_language, mean, rtol=1e-3, atol=1e-6 * mean.max().item())
        neurons = detection.neurons[language]
        Decoder(model).check_set(neurons)
        assert all(len(neurons.only(site)) for site in pml.SITES)


@pytest.mark.parametrize("name", ALL)
def test_counts_are_those_of_positive_gates_and_sets_of_lape_are_off_as_zeroed_ones(name):
    model = make_model(name)
    counts = pml.activations(model, tiny_tokenizer(), CORPORA, **PASSES)
    for language in CORPORA:
        documents = documents_of(language)
        assert counts[language].tokens == sum(tokens.numel() for tokens in documents)
        assert torch.equal(counts[language].active, positive_gates(model, documents))
        assert counts[language].active.any()
    neurons = pml.lape(counts, top=0.2, bar=0.5)["fr"]
    batch = dict(input_ids=torch.cat([tokens[:, :4] for tokens in documents_of("fr")]))
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = batch["input_ids"]
    with torch.no_grad():
        truth, plain = zeroed_by_hand(model, neurons)(**batch).logits, model(**batch).logits
        with pml.deactivate(model, neurons):
            assert difference(model(**batch).logits, truth) < 1e-5 < 1e-3 < difference(plain, truth)


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("name", DECODERS)
def test_rows_of_a_padded_batch_generate_under_their_own_sets(name, use_cache):
    """Each row as in a copy with zeroed weights that gets the same batch."""
    model, batch = make_model(name), tiny_batch((7, 4, 6), padding="left")
    sets = [random_set(model, seed=1), None, random_set(model, seed=2)]
    options = dict(max_new_tokens=5, do_sample=False, use_cache=use_cache)
    with pml.deactivate(model, sets):
        tokens = model.generate(**batch, **options)
    plain = model.generate(**batch, **options)
    for row, neurons in enumerate(sets):
        copied = model if neurons is None else zeroed_by_hand(model, neurons)
        assert torch.equal(tokens[row], copied.generate(**batch, **options)[row])
    assert not torch.equal(tokens, plain) and torch.equal(tokens[1], plain[1])


@pytest.mark.parametrize("name", DECODERS)
def test_perplexity_and_the_matrix_of_sets_are_those_of_a_loop_over_zeroed_copies(name):
    model, tokenizer = make_model(name), tiny_tokenizer()
    sets = {"a": random_set(model, seed=1), "b": random_set(model, seed=2)}
    matrix = pml.ablation_matrix(model, tokenizer, sets, CORPORA, **PASSES)
    assert list(matrix.index) == ["none", "a", "b"] and list(matrix.columns) == list(CORPORA)
    for language in CORPORA:
        plain = plain_perplexity(model, language)
        assert pml.perplexity(model, tokenizer, CORPORA[language], **PASSES) == pytest.approx(plain, rel=1e-4)
        assert matrix.loc["none", language] == pytest.approx(plain, rel=1e-4)
        for label, neurons in sets.items():
            truth = plain_perplexity(zeroed_by_hand(model, neurons), language)
            assert matrix.loc[label, language] == pytest.approx(truth, rel=1e-4)
            assert abs(truth - plain) > 1e-3 * plain


@pytest.mark.parametrize("name", [*ENCODERS, *PAIRS])
def test_what_predicts_no_next_token_has_no_perplexity_and_no_matrix(name):
    model, tokenizer = make_model(name), tiny_tokenizer()
    message = r"whose tokens see those after them|does not predict the next token"
    with pytest.raises(pml.UnsupportedModel, match=message):
        pml.perplexity(model, tokenizer, CORPORA["fr"], **PASSES)
    with pytest.raises(pml.UnsupportedModel, match=message):
        pml.ablation_matrix(model, tokenizer, {"a": random_set(model)}, CORPORA, **PASSES)


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODERS)
def test_rows_of_a_padded_batch_of_an_encoder_are_under_their_own_sets(name):
    model, batch = make_model(name), tiny_batch((7, 4, 6))
    sets = [random_set(model, seed=1), None, random_set(model, seed=2)]
    with pml.deactivate(model, sets):
        together = model(**batch).logits
    for row, neurons in enumerate(sets):
        is_token = batch["attention_mask"][row].bool()
        truth = (model if neurons is None else zeroed_by_hand(model, neurons))(**batch).logits[row, is_token]
        assert difference(together[row, is_token], truth) < 1e-5


DECODING = {
    "greedy": dict(do_sample=False),
    "without a cache": dict(do_sample=False, use_cache=False),
    "beams": dict(do_sample=False, num_beams=3),
    "several beams returned": dict(do_sample=False, num_beams=3, num_return_sequences=2),
    "several samples": dict(do_sample=True, num_return_sequences=3),
}


@torch.no_grad()
@pytest.mark.parametrize("decoding", DECODING)
@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", PAIRS)
def test_an_encoder_decoder_generates_each_row_under_its_own_set(name, padding, decoding):
    """In one call, from a padded batch. Samples are drawn from the same random numbers."""
    model, batch = tiny_model(name, torch.float64), tiny_batch((7, 4, 6), padding=padding)
    batch["input_ids"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, model.config.pad_token_id)
    sets = [random_set(model, 1, fraction=0.9), random_set(model, 2, fraction=0.9), None]
    options = dict(DECODING[decoding], max_new_tokens=6, min_new_tokens=6)

    def generate(one) -> torch.Tensor:
        torch.manual_seed(0)
        return one.generate(**batch, **options).unflatten(0, (3, -1))

    with pml.deactivate(model, sets):
        by_row = generate(model)
    with pml.deactivate(model, sets[0]):
        all_rows = generate(model)
    assert by_row.shape[1] == options.get("num_return_sequences", 1)
    truths = [generate(model if neurons is None else zeroed_by_hand(model, neurons)) for neurons in sets]
    for row, truth in enumerate(truths):
        assert torch.equal(by_row[row], truth[row])
    assert torch.equal(all_rows, truths[0]) and not torch.equal(by_row, truths[2])


def test_a_call_of_generate_with_another_number_of_prompts_than_sets_is_refused():
    model, batch = tiny_model("mt5"), tiny_batch((7, 4, 6))
    with (
        pml.deactivate(model, [random_set(model), None]),
        pytest.raises(ValueError, match="a set for each of 2 rows, the batch has 3"),
    ):
        model.generate(**batch, max_new_tokens=2)
