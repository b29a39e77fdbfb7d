"""Adapters of PEFT: importance is that of the model's own merged copy, and neurons are off as in that copy."""

import copy

import peft
import pytest
import torch

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.models.linear import bias_of, weight_of
from pymultiling.passes.identity import model_hash
from pymultiling.probes.verification.entry import verification_of
from pymultiling.probes.verification.zeroing import spot_check
from tests.support.adapters import adapted_model, adapter_config, draw_adapters, merged
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model, with_zeroed_neurons
from tests.support.tiny_text import texts, tiny_tokenizer

# Norms and rotations compute in float32 in float64 models too, with a unit roundoff of 6e-8. They pass through two
# layers here.
TOLERANCE = 1e-5

CASES = [
    ("LoRA", "llama"),
    ("LoRA", "gpt2"),
    ("LoRA", "phi3"),
    ("LoRA", "gemma2"),
    ("rank-stabilised LoRA", "qwen3"),
    ("LoRA with biases", "llama"),
    ("LoRA of some modules", "llama"),
    ("DoRA", "llama"),
    ("DoRA", "gpt2"),
    ("IA3", "llama"),
    ("IA3", "gpt2"),
    ("IA3", "gemma2"),
    ("a copy of some modules", "llama"),
    ("LNTuning", "llama"),
    ("LNTuning", "qwen3"),
    ("LNTuning", "gemma2"),
]


def largest_difference(measured: dict, truth: dict) -> float:
    """Returns the largest difference of a site, relative to the site's largest importance."""
    return max(((measured[site] - truth[site]).abs().max() / truth[site].max()).item() for site in pml.SITES)


def importance_agrees(model, truth) -> bool:
    measured, expected = (pml.importance(one, **tiny_batch()) for one in (model, truth))
    return largest_difference(measured, expected) < TOLERANCE


@torch.no_grad()
def logits(model) -> torch.Tensor:
    """Returns the logits of a batch without padding, under which transformers' eager Gemma2 gives NaN in float64."""
    return model(**tiny_batch((9, 9)), use_cache=False).logits


def difference(x: torch.Tensor, y: torch.Tensor) -> float:
    return ((x - y).abs().max() / y.abs().max()).item()


@pytest.mark.parametrize("kind, name", CASES, ids=str)
def test_importance_is_that_of_the_merged_copy(kind, name):
    """And not that of the model without its adapters. The model is in training mode, in which LoRA has dropout."""
    model = adapted_model(kind, name)
    measured, truth = (pml.importance(one, **tiny_batch()) for one in (model, merged(model)))
    assert largest_difference(measured, truth) < TOLERANCE
    assert largest_difference(measured, pml.importance(tiny_model(name, torch.float64), **tiny_batch())) > 0.01
    assert verification_of(Decoder(model)).departures == ()


@pytest.mark.parametrize("kind, name", CASES, ids=str)
def test_neurons_are_off_as_in_the_merged_copy(kind, name):
    """Compared with zeroed parameters of the merged copy."""
    model = adapted_model(kind, name).eval()
    neurons, truth = random_neurons(merged(model)), merged(model)
    plain = logits(model)
    with pml.deactivate(model, neurons) as same:
        assert same is model
        assert difference(logits(model), logits(with_zeroed_neurons(truth, neurons))) < TOLERANCE
    assert torch.equal(logits(model), plain) and difference(plain, logits(with_zeroed_neurons(truth, neurons))) > 1e-2


@pytest.mark.parametrize("kind, name", CASES, ids=str)
def test_adapters_that_are_merged_in_place_are_measured_and_masked(kind, name):
    """The PEFT model stays, and its modules have the weights of the merged copy."""
    model = adapted_model(kind, name).eval()
    truth = merged(model)
    model.merge_adapter()
    neurons = random_neurons(truth)
    assert importance_agrees(model, truth)
    with pml.deactivate(model, neurons):
        assert difference(logits(model), logits(with_zeroed_neurons(truth, neurons))) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["LoRA", "LoRA with biases", "DoRA", "IA3"])
def test_the_verification_passes_in_every_dtype(kind, dtype):
    """Also where a 16-bit model has adapters in float32, PEFT's default."""
    for autocast in (False, True):
        model = peft.get_peft_model(
            tiny_model("llama", dtype), adapter_config(kind, "llama"), autocast_adapter_dtype=autocast
        )
        draw_adapters(model)
        assert verification_of(Decoder(model)).departures == ()


def test_counts_and_texts_give_what_the_merged_copy_gives():
    model, tokenizer = adapted_model("LoRA", "llama"), tiny_tokenizer()
    truth, corpora, options = merged(model), {"fr": texts("fr")}, {"progress": False}
    counted, expected = (pml.activations(one, tokenizer, corpora, **options) for one in (model, truth))
    assert torch.equal(counted["fr"].active, expected["fr"].active)
    found, expected = (pml.detect(one, tokenizer, corpora, **options).neurons["fr"] for one in (model, truth))
    assert found == expected
    perplexities = [pml.perplexity(one, tokenizer, corpora["fr"], **options) for one in (model, truth)]
    assert perplexities[0] == pytest.approx(perplexities[1])
    means, expected = (pml.mean_activations(one, tokenizer, corpora["fr"], **options) for one in (model, truth))
    assert all(torch.allclose(means[site], expected[site], rtol=TOLERANCE, atol=TOLERANCE) for site in expected)


def test_generate_runs_each_prompt_under_its_set():
    model = adapted_model("LoRA", "llama").eval()
    truth, batch, options = merged(model), tiny_batch((5, 5)), dict(max_new_tokens=4, do_sample=False)
    sets = [None, random_neurons(truth)]
    with pml.deactivate(model, sets), pml.deactivate(truth, sets):
        assert torch.equal(model.generate(**batch, **options), truth.generate(**batch, **options))


def test_the_adapters_that_act_are_measured():
    """Two adapters at once, one of them, none (disabled) and merged in place; each as the merged copy of that state."""
    model = adapted_model("LoRA", "llama")
    model.add_adapter("other", adapter_config("LoRA of some modules", "llama"), autocast_adapter_dtype=False)
    draw_adapters(model, seed=1)
    for names in (["default", "other"], ["other"], ["default"]):
        model.base_model.set_adapter(names)
        assert importance_agrees(model, merged(model))
    with model.disable_adapter():
        assert importance_agrees(model, tiny_model("llama", torch.float64))
    truth = merged(model)
    model.merge_adapter()
    assert importance_agrees(model, truth)
    model.base_model.disable_adapter_layers()
    with pytest.raises(pml.UnsupportedModel, match=r"merged and disabled.*unmerge_adapter\(\) first"):
        pml.importance(model, **tiny_batch(), verify=False)


@pytest.mark.parametrize("kind", ["a copy of some modules", "LNTuning"])
def test_disabled_copies_are_not_measured(kind):
    model = adapted_model(kind, "llama")
    with model.disable_adapter():
        assert importance_agrees(model, tiny_model("llama", torch.float64))
    model.merge_adapter()
    assert importance_agrees(model, merged(model))


def test_adapters_are_found_without_a_wrapper_and_inside_several():
    model = adapted_model("LoRA", "llama")
    truth = merged(model)
    for wrapped in (
        model.get_base_model(),
        model.base_model,
        torch.nn.DataParallel(model),
        torch.compile(model, backend="eager"),
    ):
        assert importance_agrees(wrapped, truth)
    plain = tiny_model("llama", torch.float64)
    plain.add_adapter(adapter_config("LoRA", "llama"))
    draw_adapters(plain)
    assert importance_agrees(plain, truth)


def test_a_mixed_model_is_measured():
    """PEFT's model with adapters of several kinds: one inside another."""
    model = peft.get_peft_model(
        tiny_model("llama", torch.float64), adapter_config("LoRA", "llama"), mixed=True, autocast_adapter_dtype=False
    )
    model.add_adapter("other", adapter_config("LoRA of some modules", "llama"))
    model.set_adapter(["default", "other"])
    draw_adapters(model)
    assert importance_agrees(model, merged(model))


def test_weight_and_bias_are_those_that_peft_merges():
    model = adapted_model("LoRA with biases", "llama")
    module, truth = model.base_model.model.model.layers[0].mlp.down_proj, merged(model).model.layers[0].mlp.down_proj
    assert torch.allclose(weight_of(module), truth.weight, rtol=1e-14, atol=1e-14)
    assert torch.allclose(bias_of(module), truth.bias, rtol=1e-14, atol=1e-14)


def test_an_adapter_whose_forward_was_replaced_is_noticed():
    model = adapted_model("LoRA", "llama").eval()
    module = model.base_model.model.model.layers[1].mlp.down_proj
    forward = module.forward
    module.forward = lambda x: 1.01 * forward(x)
    with pytest.raises(pml.UnsupportedModel, match=r"layers.1.mlp.down_proj does not return its weight times"):
        pml.importance(model, **tiny_batch(), sites="ffn")
    assert pml.importance(model, **tiny_batch(), sites=("v", "o"))


# Kinds of adapters whose effect on the weight is not known, or depends on the tokens.
def unknown_adapter(kind: str):
    modules = ["q_proj", "down_proj"]
    config = {
        "LoHa": lambda: peft.LoHaConfig(r=2, target_modules=modules),
        "activated LoRA": lambda: peft.LoraConfig(
            r=2, target_modules=modules, alora_invocation_tokens=[5], task_type="CAUSAL_LM"
        ),
    }[kind]()
    return peft.get_peft_model(tiny_model("llama"), config)


@pytest.mark.parametrize("kind", ["LoHa", "activated LoRA"])
def test_other_adapters_name_the_way_out(kind):
    model = unknown_adapter(kind)
    for given in (model, model.get_base_model()):
        with pytest.raises(pml.UnsupportedModel, match=r"PEFT.*: give the model that merge_and_unload\(\)"):
            pml.importance(given, **tiny_batch())
    with pytest.raises(pml.UnsupportedModel, match=r"\w+_proj of layer 0 is an adapter of PEFT"):
        pml.importance(model.get_base_model(), **tiny_batch())


def test_neurons_inside_adapters_are_not_trained():
    model = adapted_model("LoRA", "llama", torch.float32)
    with pytest.raises(pml.UnsupportedModel, match=r"_proj is quantised or an adapter of PEFT.*merge_and_unload"):
        pml.train_only(model, random_neurons(merged(model)))


def test_the_check_with_zeroed_weights_is_refused():
    """Zeroing the effective weight would change a temporary tensor. In the model here only gate and up have LoRA."""
    config = peft.LoraConfig(r=2, target_modules=["gate_proj", "up_proj"])
    with pytest.raises(pml.UnsupportedModel, match=r"set to zero for this check.*merge_and_unload"):
        spot_check(peft.get_peft_model(tiny_model("llama"), config))


PROMPTS = {
    "prompt tuning": lambda: peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "prefix tuning": lambda: peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "p-tuning": lambda: peft.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8, task_type="CAUSAL_LM"),
    "context-aware prompt tuning": lambda: peft.CPTConfig(
        cpt_token_ids=[3, 4], cpt_mask=[1, 1], cpt_tokens_type_mask=[1, 1], task_type="CAUSAL_LM"
    ),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_neurons_are_off_under_learned_prompts_but_not_measured(kind):
    """Compared with zeroed parameters of the model that the PEFT model calls."""
    plain = tiny_model("llama")
    model = peft.get_peft_model(copy.deepcopy(plain), PROMPTS[kind]()).eval()
    neurons = random_neurons(plain)
    zeroed = copy.deepcopy(model)
    zeroed.base_model.load_state_dict(with_zeroed_neurons(plain, neurons).state_dict())
    batch = tiny_batch((7, 7))
    with torch.no_grad(), pml.deactivate(model, neurons):
        off = model(**batch).logits
    with torch.no_grad():
        assert difference(off, zeroed(**batch).logits) < TOLERANCE
        assert difference(off, model(**batch).logits) > 1e-2
    tokenizer, corpora = tiny_tokenizer(), {"fr": texts("fr")}
    for call in (
        lambda: pml.importance(model, **tiny_batch()),
        lambda: pml.detect(model, tokenizer, corpora),
        lambda: pml.activations(model, tokenizer, corpora),
    ):
        with pytest.raises(pml.UnsupportedModel, match=r"wrapper of PEFT.*under them neurons can be deactivated"):
            call()


def test_the_hash_of_a_model_tells_which_adapters_act():
    model = adapted_model("LoRA", "llama")
    before = model_hash(model.get_base_model())
    with model.disable_adapter():
        assert model_hash(model.get_base_model()) != before
    assert model_hash(model.get_base_model()) == before
