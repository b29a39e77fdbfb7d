"""change_hidden: hidden activations of experts are captured, scaled, replaced or zeroed, and nothing else changes."""

import copy
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from pymultiling.models import routing
from pymultiling.models.experts import Experts, change_hidden
from tests.models.test_experts import MODELS, block_inputs, blocks, run, tiny_moe
from tests.support.anatomy import zero_expert_neuron
from tests.support.tiny_models import tiny_batch


def draw_masks(model, sets: int) -> torch.Tensor:
    """Returns (layers, sets, E I) bool."""
    generator, width = torch.Generator().manual_seed(1), Experts.from_module(blocks(model)[0].experts, "").width
    return torch.rand(len(blocks(model)), sets, width, generator=generator) < 0.3


def with_zeroed_neurons(model, masks: torch.Tensor):
    """Returns a copy of the model in which the neurons of masks (layers, E I) are zero."""
    model = copy.deepcopy(model)
    for layer, n in masks.nonzero().tolist():
        zero_expert_neuron(blocks(model)[layer].experts, n)
    return model


def mask_experts(model, masks: torch.Tensor, mask_ids: torch.Tensor | None = None) -> ExitStack:
    """Switches neurons off until the returned stack is closed.

    masks: (layers, sets, E I) bool. mask_ids: (tokens,), the index of each token's set, -1: none. None: the first set.
    """
    stack = ExitStack()
    for block, layer_masks in zip(blocks(model), masks):
        experts = Experts.from_module(block.experts, "")

        def change(routed, experts=experts, layer_masks=layer_masks):
            return experts.mask_hidden(routed, layer_masks, mask_ids)

        stack.enter_context(change_hidden(experts, change))
    return stack


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_eager_experts_without_a_change_give_the_same_bits(name, dtype):
    model, batch = tiny_moe(name, dtype), tiny_batch((27, 27))
    for block, x in zip(blocks(model), block_inputs(model, batch)):
        plain = block(x)
        with change_hidden(Experts.from_module(block.experts, ""), lambda routed: None):
            assert torch.equal(block(x), plain)


@torch.no_grad()
@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "one launch"])
@pytest.mark.parametrize("implementation", ["batched_mm", "grouped_mm"])
@pytest.mark.parametrize("name", MODELS)
def test_other_implementations_agree_to_rounding(name, implementation, at_once, monkeypatch):
    monkeypatch.setattr(routing, "_has_grouped", lambda x: at_once)
    model, batch = tiny_moe(name, torch.float32, implementation), tiny_batch((27, 27))
    for block, x in zip(blocks(model), block_inputs(model, batch)):
        plain, captured = block(x), []
        with change_hidden(Experts.from_module(block.experts, ""), captured.append):
            torch.testing.assert_close(block(x), plain, rtol=1e-5, atol=1e-6)
        gate, up, hidden = captured[0].gate, captured[0].up, captured[0].hidden
        torch.testing.assert_close(hidden, nn.functional.silu(gate) * up)
        assert (captured[0].experts.diff() >= 0).all()


@torch.no_grad()
@pytest.mark.parametrize("dtype, allowed", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", MODELS)
def test_masked_neurons_are_zeroed_neurons(name, dtype, allowed):
    model, batch = tiny_moe(name, dtype), tiny_batch()
    drawn = draw_masks(model, sets=1)
    without = with_zeroed_neurons(model, drawn[:, 0])
    truth = run(without, batch)
    assert (truth - run(model, batch)).abs().max() > 1e-2 * truth.abs().max()
    with mask_experts(model, drawn):
        assert (run(model, batch) - truth).abs().max() < allowed * truth.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_every_row_of_a_batch_runs_under_its_own_set(name):
    model, batch = tiny_moe(name), tiny_batch((9, 9, 9))
    drawn = draw_masks(model, sets=2)
    lengths = [9, 9, 9]
    truth = [
        run(with_zeroed_neurons(model, drawn[:, 1]), batch),
        run(model, batch),
        run(with_zeroed_neurons(model, drawn[:, 0]), batch),
    ]
    sets = torch.tensor([1, -1, 0]).repeat_interleave(9)
    with mask_experts(model, drawn, sets):
        result = run(model, batch)
    for row, (part, whole_batch) in enumerate(zip(result.split(lengths), truth)):
        torch.testing.assert_close(part, whole_batch.split(lengths)[row], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("change", ["scale", "values"])
def test_mask_hidden_scales_neurons_or_sets_them_to_values(change, plain):
    model, batch = tiny_moe("qwen3_moe"), tiny_batch()
    experts = Experts.from_module(blocks(model)[0].experts, "")
    mask = draw_masks(model, sets=1)[0]
    values = torch.randn(experts.width, dtype=torch.float64)
    options = dict(scale=3.0) if change == "scale" else dict(values=values)
    captured = []
    with torch.no_grad(), change_hidden(experts, captured.append):
        run(model, batch)
    routed = captured[0]
    result = experts.mask_hidden(routed, mask, plain=plain, **options)
    for row, e in enumerate(routed.experts.tolist()):
        place = slice(e * experts.size, (e + 1) * experts.size)
        target = 3 * routed.hidden[row] if change == "scale" else values[place]
        assert torch.equal(result[row], torch.where(mask[0, place], target, routed.hidden[row]))


def test_inner_changes_follow_outer_ones_and_all_are_removed():
    model, batch = tiny_moe("mixtral"), tiny_batch()
    experts, calls = Experts.from_module(blocks(model)[0].experts, ""), []

    def double(routed):
        calls.append(("double", routed.hidden))
        return 2 * routed.hidden

    def record(routed):
        calls.append(("record", routed.hidden))

    def run_and_raise():
        run(model, batch)
        raise RuntimeError("stop")

    with torch.no_grad():
        plain = run(model, batch)
        with change_hidden(experts, double):
            with pytest.raises(RuntimeError, match="stop"), change_hidden(experts, record):
                run_and_raise()
            run(model, batch)
        assert [name for name, _ in calls] == ["double", "record", "double"]
        assert torch.equal(calls[1][1], 2 * calls[0][1])
        assert "forward" not in vars(experts.module) and torch.equal(run(model, batch), plain)


def test_another_forward_of_the_module_is_restored():
    model, batch = tiny_moe("mixtral"), tiny_batch()
    experts = Experts.from_module(blocks(model)[0].experts, "")

    def previous(hidden_states, top_k_index, top_k_weights):
        return hidden_states

    experts.module.forward = previous
    with torch.no_grad(), change_hidden(experts, lambda routed: None):
        run(model, batch)
    assert experts.module.forward is previous


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_gradients_are_those_of_the_zeroed_model(implementation):
    model, batch = tiny_moe("qwen3_moe", torch.float32, implementation), tiny_batch((9, 9))
    drawn = draw_masks(model, sets=1)
    without = with_zeroed_neurons(model, drawn[:, 0])
    run(without, batch).square().sum().backward()
    with mask_experts(model, drawn):
        run(model, batch).square().sum().backward()
    for name in ("self_attn.q_proj.weight", "mlp.gate.weight"):
        result, truth = (any_model.model.layers[0].get_parameter(name).grad for any_model in (model, without))
        assert (result - truth).abs().max() < 1e-4 * truth.abs().max()
