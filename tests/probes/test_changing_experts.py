"""What each expert makes of its tokens is seen, scaled, set and zeroed, and nothing else of the model changes."""

import copy
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from pymultiling.models import routing
from pymultiling.models.experts import Experts, change_hidden
from tests.models.test_experts import MODELS, block_inputs, blocks, run, tiny_moe
from tests.support.anatomy import zero_of_expert
from tests.support.tiny_models import tiny_batch


def draw_masks(model, sets: int) -> torch.Tensor:
    """(layers, sets, E I) bool."""
    generator, width = torch.Generator().manual_seed(1), Experts.from_module(blocks(model)[0].experts, "").width
    return torch.rand(len(blocks(model)), sets, width, generator=generator) < 0.3


def with_zeroed_neurons(model, masks: torch.Tensor):
    """A copy of the model without the neurons of masks (layers, E I)."""
    model = copy.deepcopy(model)
    for layer, n in masks.nonzero().tolist():
        zero_of_expert(blocks(model)[layer].experts, n)
    return model


def masking(model, masks: torch.Tensor, mask_ids: torch.Tensor | None = None) -> ExitStack:
    stack = ExitStack()
    for block, of_layer in zip(blocks(model), masks):
        experts = Experts.from_module(block.experts, "")

        def change(routed, experts=experts, of_layer=of_layer):
            return experts.mask_hidden(routed, of_layer, mask_ids)

        stack.enter_context(change_hidden(experts, change))
    return stack


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_nothing_changes_no_bit_of_eager_experts(name, dtype):
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
        plain, seen = block(x), []
        with change_hidden(Experts.from_module(block.experts, ""), seen.append):
            torch.testing.assert_close(block(x), plain, rtol=1e-5, atol=1e-6)
        gate, up, hidden = seen[0].gate, seen[0].up, seen[0].hidden
        torch.testing.assert_close(hidden, nn.functional.silu(gate) * up)
        assert (seen[0].experts.diff() >= 0).all()


@torch.no_grad()
@pytest.mark.parametrize("dtype, allowed", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", MODELS)
def test_masked_is_zeroed(name, dtype, allowed):
    model, batch = tiny_moe(name, dtype), tiny_batch()
    drawn = draw_masks(model, sets=1)
    without = with_zeroed_neurons(model, drawn[:, 0])
    truth = run(without, batch)
    assert (truth - run(model, batch)).abs().max() > 1e-2 * truth.abs().max()
    with masking(model, drawn):
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
    with masking(model, drawn, sets):
        found = run(model, batch)
    for row, (part, one) in enumerate(zip(found.split(lengths), truth)):
        torch.testing.assert_close(part, one.split(lengths)[row], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("change", ["scale", "values"])
def test_masked_scales_or_sets_to_values(change, plain):
    model, batch = tiny_moe("qwen3_moe"), tiny_batch()
    experts = Experts.from_module(blocks(model)[0].experts, "")
    mask = draw_masks(model, sets=1)[0]
    values = torch.randn(experts.width, dtype=torch.float64)
    options = dict(scale=3.0) if change == "scale" else dict(values=values)
    seen = []
    with torch.no_grad(), change_hidden(experts, seen.append):
        run(model, batch)
    routed = seen[0]
    found = experts.mask_hidden(routed, mask, plain=plain, **options)
    for row, e in enumerate(routed.experts.tolist()):
        place = slice(e * experts.size, (e + 1) * experts.size)
        target = 3 * routed.hidden[row] if change == "scale" else values[place]
        assert torch.equal(found[row], torch.where(mask[0, place], target, routed.hidden[row]))


def test_inner_changes_follow_outer_ones_and_all_are_taken_away():
    model, batch = tiny_moe("mixtral"), tiny_batch()
    experts, calls = Experts.from_module(blocks(model)[0].experts, ""), []

    def double(routed):
        calls.append(("double", routed.hidden))
        return 2 * routed.hidden

    def look(routed):
        calls.append(("look", routed.hidden))

    with torch.no_grad():
        plain = run(model, batch)
        with change_hidden(experts, double):
            with pytest.raises(RuntimeError, match="stop"), change_hidden(experts, look):
                run(model, batch)
                raise RuntimeError("stop")
            run(model, batch)
        assert [name for name, _ in calls] == ["double", "look", "double"]
        assert torch.equal(calls[1][1], 2 * calls[0][1])
        assert "forward" not in vars(experts.module) and torch.equal(run(model, batch), plain)


def test_a_forward_of_somebody_else_is_put_back():
    model, batch = tiny_moe("mixtral"), tiny_batch()
    experts = Experts.from_module(blocks(model)[0].experts, "")

    def own(hidden_states, top_k_index, top_k_weights):
        return hidden_states

    experts.module.forward = own
    with torch.no_grad(), change_hidden(experts, lambda routed: None):
        run(model, batch)
    assert experts.module.forward is own


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_gradients_are_those_of_the_zeroed_model(implementation):
    model, batch = tiny_moe("qwen3_moe", torch.float32, implementation), tiny_batch((9, 9))
    drawn = draw_masks(model, sets=1)
    without = with_zeroed_neurons(model, drawn[:, 0])
    run(without, batch).square().sum().backward()
    with masking(model, drawn):
        run(model, batch).square().sum().backward()
    for name in ("self_attn.q_proj.weight", "mlp.gate.weight"):
        found, truth = (one.model.layers[0].get_parameter(name).grad for one in (model, without))
        assert (found - truth).abs().max() < 1e-4 * truth.abs().max()
