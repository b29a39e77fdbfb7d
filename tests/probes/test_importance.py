"""pml.importance against its definition: Hugging Face models in which one neuron at a time is zero (brute_force.py)."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pymultiling as pml
from pymultiling.probes.importance import ImportanceProbe
from tests.support.brute_force import brute_force, float64_throughout
from tests.support.comparison import (
    ILL_CONDITIONED,
    TOLERANCE,
    brute_force_importance,
    importance_in_float64,
    largest_error,
    set_attention,
)
from tests.support.tiny_models import MODELS, REPRESENTATIVE_MODELS, tiny_batch, tiny_model


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_float64_importance_is_brute_force(name, padding):
    result = importance_in_float64(tiny_model(name, torch.float64), **tiny_batch(padding=padding))
    truth = brute_force_importance(name, padding)
    assert {site: values.dtype for site, values in result.items()} == dict.fromkeys(truth, torch.float64)
    errors = {site: largest_error(result[site], truth[site]) for site in truth}
    assert max(errors.values()) < TOLERANCE[torch.float64], errors


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", MODELS)
def test_float32_importance_is_float64_brute_force(name, padding):
    result = pml.importance(tiny_model(name), **tiny_batch(padding=padding))
    truth = brute_force_importance(name, padding)
    assert {site: values.dtype for site, values in result.items()} == dict.fromkeys(truth, torch.float32)
    errors = {site: largest_error(result[site], truth[site]) for site in truth}
    assert max(errors.values()) < ILL_CONDITIONED.get((name, torch.float32), TOLERANCE[torch.float32]), errors


def test_brute_force_has_importance_at_every_site_of_every_family():
    for name in MODELS:
        for site, truth in brute_force_importance(name, "right").items():
            assert (truth.amax(-1) > 0).all(), (name, site)


@given(
    groups=st.sampled_from([(1, 1), (2, 1), (3, 3), (6, 2), (4, 1)]),
    head=st.sampled_from([2, 4, 6, 10]),
    ffn=st.integers(1, 19),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    padding=st.sampled_from(["left", "right"]),
    name=st.sampled_from(["llama", "qwen3-bias", "gemma2-bias", "phi3"]),
    seed=st.integers(0, 100),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_importance_is_brute_force_for_any_shape(groups, head, ffn, lengths, padding, name, seed):
    heads, kv_heads = groups
    shape = dict(hidden_size=24, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head)
    if name == "phi3":
        shape = dict(shape, hidden_size=heads * head)
        del shape["head_dim"]
    model = tiny_model(name, torch.float64, seed=seed, num_hidden_layers=1, intermediate_size=ffn, **shape)
    batch = tiny_batch(lengths, padding, seed)
    truth = brute_force(model, **batch)
    result = importance_in_float64(model, **batch)
    errors = {site: largest_error(result[site], truth[site]) for site in truth}
    assert max(errors.values()) < TOLERANCE[torch.float64], errors


OTHER_SCORES = ("cohere-norms", "falcon-alibi", "bloom", "olmo2", "mixtral")  # other operators, biases of scores


@pytest.mark.parametrize("name", [*REPRESENTATIVE_MODELS, *OTHER_SCORES])
def test_importance_of_the_tokens_that_count_is_brute_force(name):
    """The other tokens are context: the first ones, as those of a chat template, and for one document a last one."""
    model, batch = tiny_model(name, torch.float64), tiny_batch((9, 6, 4))
    counted = batch["attention_mask"].bool() & (torch.arange(9) >= torch.tensor([[4], [2], [3]]))
    counted[0, 8] = False
    truth = brute_force(model, **batch, counted=counted)
    with float64_throughout(model), ImportanceProbe(model) as probe:
        result, require_finite = probe.launch(*batch.values(), counted)
    require_finite()
    errors = {site: largest_error(result[site], truth[site]) for site in truth}
    assert max(errors.values()) < TOLERANCE[torch.float64], errors


@pytest.mark.parametrize("options", [{"qk": "fast"}, {"score": "released"}, {"rope": "post"}, {"fused": True}], ids=str)
def test_tokens_that_do_not_count_add_nothing(options):
    """The values of two parts of the tokens add up to those of all, and those of the first part need no other."""
    model, batch = tiny_model("qwen3", torch.float64), tiny_batch((24,))
    first = torch.arange(24)[None] < 20
    with ImportanceProbe(model, **options) as probe:
        whole, alone = probe.measure(*batch.values()), probe.measure(batch["input_ids"][:, :20])
        parts = [probe.launch(*batch.values(), counted)[0] for counted in (first, ~first)]
    for site, values in whole.items():
        torch.testing.assert_close(parts[0][site], alone[site], rtol=1e-10, atol=0)
        torch.testing.assert_close(parts[0][site] + parts[1][site], values, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_a_fused_probe_is_exact_too(name):
    for dtype in (torch.float64, torch.float32):
        model = tiny_model(name, dtype)
        precision = float64_throughout(model) if dtype == torch.float64 else nullcontext()
        with precision, ImportanceProbe(model, fused=True) as probe:
            result = probe.measure(**tiny_batch())
        for site, truth in brute_force_importance(name, "right").items():
            assert largest_error(result[site], truth) < TOLERANCE[dtype], (dtype, site)


# The largest relative difference of numbers that exact arithmetic would make equal. A neuron at the floor of a
# document of one token has an activation of 1e-3 of the largest one, whose relative error in float32 is 1e-4.
ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-3}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_a_documents_importance_depends_on_neither_its_batch_nor_its_padding(name, dtype):
    model = tiny_model(name, dtype)
    lengths = (11, 7, 1)
    batches = {side: tiny_batch(lengths, side) for side in ("left", "right")}
    with float64_throughout(model) if dtype == torch.float64 else nullcontext():
        left, right = (pml.importance(model, **batch) for batch in batches.values())
        reversed_rows = pml.importance(model, **{key: value.flip(0) for key, value in batches["left"].items()})
        for row, length in enumerate(lengths):
            alone = pml.importance(model, batches["right"]["input_ids"][row : row + 1, :length])
            for site, values in alone.items():
                for in_batch in (left[site][row], right[site][row], reversed_rows[site].flip(0)[row]):
                    assert largest_error(in_batch[None], values.double()) < ROUNDING[dtype], (site, row)


def test_the_ids_of_padding_tokens_do_not_matter():
    model, batch = tiny_model("qwen3"), tiny_batch()
    other_padding = dict(batch, input_ids=torch.where(batch["attention_mask"] == 0, 5, batch["input_ids"]))
    for site, values in pml.importance(model, **batch).items():
        assert torch.equal(pml.importance(model, **other_padding)[site], values), site


def test_without_a_mask_there_is_no_padding():
    model, batch = tiny_model("llama"), tiny_batch((8, 8))
    with_mask, without = pml.importance(model, **batch), pml.importance(model, batch["input_ids"])
    assert all(torch.equal(with_mask[site], without[site]) for site in pml.SITES)


def test_a_boolean_mask_gives_the_same_as_an_integer_mask():
    model, batch = tiny_model("llama"), tiny_batch()
    booleans = dict(batch, attention_mask=batch["attention_mask"].bool())
    ones, bools = pml.importance(model, **batch), pml.importance(model, **booleans)
    assert all(torch.equal(ones[site], bools[site]) for site in pml.SITES)


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_documents_of_one_token_have_no_importance_of_q_and_k(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch((1, 1))
    result, truth = importance_in_float64(model, **batch), brute_force(model, **batch)
    for site in ("ffn", "v", "o"):
        assert largest_error(result[site], truth[site]) < TOLERANCE[torch.float64], site
    assert not result["q"].any() and not result["k"].any()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_a_row_of_padding_has_no_importance_and_does_not_change_other_rows(name, attention):
    model = set_attention(tiny_model(name), attention)
    batch = tiny_batch((9, 6))
    padded = {key: torch.cat([value, torch.zeros(1, 9, dtype=torch.int64)]) for key, value in batch.items()}
    result, without = pml.importance(model, **padded), pml.importance(model, **batch)
    for site, values in result.items():
        assert not values[2].any(), site
        assert largest_error(values[:2], without[site].double()) < 1e-3, site


def test_importance_of_a_model_with_one_layer_is_brute_force():
    model, batch = tiny_model("llama", torch.float64, num_hidden_layers=1), tiny_batch()
    truth = brute_force(model, **batch)
    for site, values in importance_in_float64(model, **batch).items():
        assert values.shape[1] == 1 and largest_error(values, truth[site]) < TOLERANCE[torch.float64], site
