"""pml.mean_activations against a loop over texts, with plain hooks."""

import pytest
import torch

import pymultiling as pml
from pymultiling.probes.activation_sums import ActivationSumProbe
from tests.support.anatomy import (
    attention_of,
    experts_of,
    ffn_modules,
    layers_of,
    module_name,
    output_of,
    routed_gate_and_up,
    rows_of,
)
from tests.support.tiny_models import tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer

TOKENIZER, TEXTS = tiny_tokenizer(), texts("fr", seed=1)


@torch.no_grad()
def token_by_token(model) -> dict[str, torch.Tensor]:
    values, handles = {}, []

    def record(site, index, x):
        values.setdefault((site, index), []).append(x.flatten(0, -2).double())

    def record_routed(index, experts, args):
        gate, up = routed_gate_and_up(experts, *args[:2], torch.nan)
        record("ffn", index, torch.nn.functional.silu(gate) * up)

    for index, layer in enumerate(layers_of(model)):
        attention = attention_of(layer, model.config)
        inputs = [("o", output_of(layer, model.config))]
        if experts_of(layer) is None:
            inputs += [("ffn", ffn_modules(layer)[2])]
        else:
            handles.append(
                experts_of(layer).register_forward_pre_hook(lambda *call, index=index: record_routed(index, *call))
            )
        for site, module in inputs:
            handles.append(module.register_forward_pre_hook(lambda _, args, at=(site, index): record(*at, args[0])))
        for site in ("q", "k", "v"):
            linear = getattr(attention, module_name(model.config, "qkv") or f"{site}_proj")
            rows = slice(None) if rows_of(model.config, site) is None else rows_of(model.config, site)
            handles.append(
                linear.register_forward_hook(
                    lambda _, args, out, at=(site, index), rows=rows: record(*at, out[..., rows])
                )
            )
    for text in TEXTS:
        model(torch.tensor([TOKENIZER(text)["input_ids"]]))
    for handle in handles:
        handle.remove()
    layers = len(layers_of(model))
    return {
        site: torch.stack([torch.cat(values[site, index]).nanmean(0).nan_to_num() for index in range(layers)])
        for site in pml.SITES
    }


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gpt2", "falcon-new", "opt-post-norm", "mixtral"])
def test_means_are_those_of_a_loop_over_texts(name, batch_tokens):
    model = tiny_model(name)
    expected = token_by_token(model)
    means = pml.mean_activations(model, TOKENIZER, TEXTS, batch_tokens=batch_tokens)
    for site in pml.SITES:
        assert means[site].dtype == torch.float32
        torch.testing.assert_close(means[site].double(), expected[site], rtol=1e-4, atol=1e-5)


def test_measuring_some_sites_of_a_fused_projection_gives_the_means_of_measuring_all():
    model = tiny_model("phi3")
    all_sites = pml.mean_activations(model, TOKENIZER, TEXTS)
    some_sites = pml.mean_activations(model, TOKENIZER, TEXTS, sites=("k", "ffn"))
    assert list(some_sites) == ["ffn", "k"] and all(
        torch.equal(some_sites[site], all_sites[site]) for site in some_sites
    )
    assert all_sites["q"].shape == (2, 32) and all_sites["k"].shape == (2, 16)


def test_corpora_without_documents_and_nan_weights_are_errors():
    model = tiny_model("llama")
    with pytest.raises(pml.CorpusError, match="no documents"):
        pml.mean_activations(model, TOKENIZER, [])
    model.model.layers[0].self_attn.v_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(pml.NonFiniteActivations, match="site"):
        pml.mean_activations(model, TOKENIZER, TEXTS)


def test_autocast_does_not_round_the_sums():
    model, tokens = tiny_model("llama"), torch.tensor([TOKENIZER(TEXTS[0])["input_ids"]])
    o = model.model.layers[1].self_attn.o_proj
    inputs = []
    handle = o.register_forward_pre_hook(lambda _, args: inputs.append(args[0].double()))
    probe = ActivationSumProbe(model, "o")
    inputs.clear()  # of the verification
    with torch.autocast("cpu", torch.bfloat16):
        sums = probe.measure(tokens, torch.ones_like(tokens))
    handle.remove()
    torch.testing.assert_close(sums["o"][1], inputs[-1][0].sum(0), rtol=1e-5, atol=1e-6)
