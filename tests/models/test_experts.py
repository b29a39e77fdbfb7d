"""Mixture-of-experts FFNs against their definition: without one neuron of one expert, the block is run again."""

import copy
from contextlib import ExitStack
from functools import cache

import pytest
import torch
from tiny import SHAPE, positions, tiny_batch
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

import pymultiling as pml
from pymultiling.models import experts as module_of_experts
from pymultiling.models.experts import Experts, changing

MODELS = {
    "mixtral": (MixtralConfig, MixtralForCausalLM, dict(num_local_experts=5, num_experts_per_tok=2)),
    "qwen3_moe": (
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
        dict(num_experts=6, num_experts_per_tok=3, moe_intermediate_size=8, norm_topk_prob=True, head_dim=8),
    ),
}
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
PADDINGS = ("left", "right")
STATISTICS = ("active", "magnitude", "tokens", "total")


def tiny_moe(name: str, dtype=torch.float64, implementation: str = "eager"):
    """The same weights in any dtype; the output of the experts matters."""
    configuration, kind, differences = MODELS[name]
    config = configuration(**{**SHAPE, "intermediate_size": 16, **differences}, experts_implementation=implementation)
    model, generator = kind(config).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1))
    return model.to(dtype)


def blocks(model) -> list:
    return [layer.mlp for layer in model.model.layers]


def run(model, batch):
    """The last layer's output of the valid tokens."""
    mask = batch["attention_mask"]
    output = model.model(**batch, position_ids=positions(mask), use_cache=False).last_hidden_state
    return output[mask.bool()]


def documents_of(batch) -> torch.Tensor:
    mask = batch["attention_mask"].bool()
    return torch.where(mask, torch.arange(len(mask))[:, None], -1).flatten()


@torch.no_grad()
def measured(model, batch, statistic: str) -> torch.Tensor:
    """(documents, layers, E I): a statistic of every layer's experts, from one forward."""
    documents, count, found = documents_of(batch), len(batch["input_ids"]), {}
    with ExitStack() as stack:
        for layer, block in enumerate(blocks(model)):
            experts = Experts.of(block.experts, f"layer {layer}")

            def keep(routed, layer=layer, experts=experts):
                found[layer] = getattr(experts, statistic)(routed, documents, count)
                if statistic == "energy":
                    found[layer] = found[layer] * experts.column_norms()

            stack.enter_context(changing(experts, keep))
        run(model, batch)
    return torch.stack([found[layer] for layer in range(len(found))], 1)


def block_inputs(model, batch) -> list[torch.Tensor]:
    caught = []
    handles = [block.register_forward_pre_hook(lambda _, args: caught.append(args[0])) for block in blocks(model)]
    run(model, batch)
    for handle in handles:
        handle.remove()
    return caught


def zero(experts, n: int, part: str = "all") -> None:
    """Neuron n = expert I + index: the gate's row, up's row and down's column, or one of them."""
    size = experts.down_proj.shape[2]
    e, i = divmod(n, size)
    if part in ("gate", "all"):
        experts.gate_up_proj.data[e, i] = 0
    if part in ("up", "all"):
        experts.gate_up_proj.data[e, size + i] = 0
    if part in ("down", "all"):
        experts.down_proj.data[e, :, i] = 0


@cache
@torch.no_grad()
def truth_of(name: str, padding: str) -> torch.Tensor:
    """(documents, layers, E I): importance in float64."""
    model, batch = tiny_moe(name), tiny_batch(padding=padding)
    valid, layers = batch["attention_mask"].bool(), []
    for block, x in zip(blocks(model), block_inputs(model, batch)):
        width, before, found = Experts.of(block.experts, "").width, block(x), []
        for n in range(width):
            kept = copy.deepcopy(block.experts.state_dict())
            zero(block.experts, n, ("gate", "up", "down")[n % 3])
            found.append(torch.where(valid, (block(x) - before).square().sum(-1), 0).sum(1))
            block.experts.load_state_dict(kept)
        layers.append(torch.stack(found, 1))
    return torch.stack(layers, 1)


@torch.no_grad()
def token_by_token(model, batch) -> dict[str, torch.Tensor]:
    """{statistic: (documents, layers, E I)} from every token's block input and the choice of its router."""
    documents, found = documents_of(batch), {name: [] for name in (*STATISTICS, "energy")}
    for block, x in zip(blocks(model), block_inputs(model, batch)):
        x = x.flatten(0, 1)
        _, weights, chosen = block.gate(x)
        gate_up, down = block.experts.gate_up_proj.double(), block.experts.down_proj.double()
        sums = {name: gate_up.new_zeros(len(batch["input_ids"]), *down.shape[::2]) for name in found}
        for token in range(len(x)):
            for e, p in zip(chosen[token].tolist(), weights[token].double()) if documents[token] >= 0 else ():
                gate, up = (gate_up[e] @ x[token].double()).chunk(2)
                hidden, place = nn.functional.silu(gate) * up, (documents[token], e)
                sums["energy"][place] += (p * hidden).square() * down[e].square().sum(0)
                sums["active"][place] += gate > 0
                sums["tokens"][place] += 1
                sums["total"][place] += hidden
                sums["magnitude"][place] += up.abs()
        for name, one in sums.items():
            found[name].append(one.flatten(1))
    return {name: torch.stack(layers, 1) for name, layers in found.items()}


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", MODELS)
def test_float64_importance_is_brute_force(name, padding):
    truth = truth_of(name, padding)
    assert (truth > 0).float().mean() > 0.8  # the others are of experts that a document was never routed to
    found = measured(tiny_moe(name), tiny_batch(padding=padding), "energy")
    assert found.dtype == torch.float64 and torch.equal(found > 0, truth > 0)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", MODELS)
def test_float32_importance_is_float64_brute_force(name, padding, implementation):
    found = measured(tiny_moe(name, torch.float32, implementation), tiny_batch(padding=padding), "energy")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), truth_of(name, padding), rtol=1e-3, atol=0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_importance_is_close(name, implementation):
    """To the exact statistic of the same tokens: in 16 bits the router sends some elsewhere."""
    model, batch = tiny_moe(name, torch.bfloat16, implementation), tiny_batch(padding="left")
    found, truth = measured(model, batch, "energy"), token_by_token(model, batch)["energy"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), truth, rtol=0.05, atol=1e-3 * truth.max().item())


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("statistic", STATISTICS)
def test_other_statistics_are_sums_over_routed_tokens(statistic, name, padding):
    model, batch = tiny_moe(name), tiny_batch(padding=padding)
    found, truth = measured(model, batch, statistic), token_by_token(model, batch)[statistic]
    assert found.dtype == (torch.int64 if statistic in ("active", "tokens") else torch.float64)
    torch.testing.assert_close(found.double(), truth, rtol=1e-12, atol=1e-14)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_nothing_changes_no_bit_of_eager_experts(name, dtype):
    model, batch = tiny_moe(name, dtype), tiny_batch((27, 27))
    for block, x in zip(blocks(model), block_inputs(model, batch)):
        plain = block(x)
        with changing(Experts.of(block.experts, ""), lambda routed: None):
            assert torch.equal(block(x), plain)


@torch.no_grad()
@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "one launch"])
@pytest.mark.parametrize("implementation", ["batched_mm", "grouped_mm"])
@pytest.mark.parametrize("name", MODELS)
def test_other_implementations_agree_to_rounding(name, implementation, at_once, monkeypatch):
    monkeypatch.setattr(module_of_experts, "_has_grouped", lambda x: at_once)
    model, batch = tiny_moe(name, torch.float32, implementation), tiny_batch((27, 27))
    for block, x in zip(blocks(model), block_inputs(model, batch)):
        plain, seen = block(x), []
        with changing(Experts.of(block.experts, ""), seen.append):
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
    without = zeroed(model, drawn[:, 0])
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
    truth = [run(zeroed(model, drawn[:, 1]), batch), run(model, batch), run(zeroed(model, drawn[:, 0]), batch)]
    sets = torch.tensor([1, -1, 0]).repeat_interleave(9)
    with masking(model, drawn, sets):
        found = run(model, batch)
    for row, (part, one) in enumerate(zip(found.split(lengths), truth)):
        torch.testing.assert_close(part, one.split(lengths)[row], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("change", ["scale", "values"])
def test_masked_scales_or_sets_to_values(change, plain):
    model, batch = tiny_moe("qwen3_moe"), tiny_batch()
    experts = Experts.of(blocks(model)[0].experts, "")
    mask = draw_masks(model, sets=1)[0]
    values = torch.randn(experts.width, dtype=torch.float64)
    options = dict(scale=3.0) if change == "scale" else dict(values=values)
    seen = []
    with torch.no_grad(), changing(experts, seen.append):
        run(model, batch)
    routed = seen[0]
    found = experts.masked(routed, mask, plain=plain, **options)
    for row, e in enumerate(routed.experts.tolist()):
        place = slice(e * experts.size, (e + 1) * experts.size)
        target = 3 * routed.hidden[row] if change == "scale" else values[place]
        assert torch.equal(found[row], torch.where(mask[0, place], target, routed.hidden[row]))


def test_inner_changes_follow_outer_ones_and_all_are_taken_away():
    model, batch = tiny_moe("mixtral"), tiny_batch()
    experts, calls = Experts.of(blocks(model)[0].experts, ""), []

    def double(routed):
        calls.append(("double", routed.hidden))
        return 2 * routed.hidden

    def look(routed):
        calls.append(("look", routed.hidden))

    with torch.no_grad():
        plain = run(model, batch)
        with changing(experts, double):
            with pytest.raises(RuntimeError, match="stop"), changing(experts, look):
                run(model, batch)
                raise RuntimeError("stop")
            run(model, batch)
        assert [name for name, _ in calls] == ["double", "look", "double"]
        assert torch.equal(calls[1][1], 2 * calls[0][1])
        assert "forward" not in vars(experts.module) and torch.equal(run(model, batch), plain)


def test_a_forward_of_somebody_else_is_put_back():
    model, batch = tiny_moe("mixtral"), tiny_batch()
    experts = Experts.of(blocks(model)[0].experts, "")

    def own(hidden_states, top_k_index, top_k_weights):
        return hidden_states

    experts.module.forward = own
    with torch.no_grad(), changing(experts, lambda routed: None):
        run(model, batch)
    assert experts.module.forward is own


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_gradients_are_those_of_the_zeroed_model(implementation):
    model, batch = tiny_moe("qwen3_moe", torch.float32, implementation), tiny_batch((9, 9))
    drawn = draw_masks(model, sets=1)
    without = zeroed(model, drawn[:, 0])
    run(without, batch).square().sum().backward()
    with masking(model, drawn):
        run(model, batch).square().sum().backward()
    for name in ("self_attn.q_proj.weight", "mlp.gate.weight"):
        found, truth = (one.model.layers[0].get_parameter(name).grad for one in (model, without))
        assert (found - truth).abs().max() < 1e-4 * truth.abs().max()


@torch.no_grad()
def test_compiled_models_are_changed_too():
    torch.compiler.reset()
    model, batch = tiny_moe("mixtral", torch.float32, "grouped_mm"), tiny_batch((9, 9))
    drawn = draw_masks(model, sets=1)
    plain, compiled = run(model, batch), torch.compile(model, backend="aot_eager")
    with masking(model, drawn):
        truth = run(model, batch)
    for _ in range(2):
        torch.testing.assert_close(run(compiled, batch), plain, rtol=1e-5, atol=1e-5)
        with masking(model, drawn):
            torch.testing.assert_close(run(compiled, batch), truth, rtol=1e-5, atol=1e-5)
    torch.compiler.reset()


def test_experts_of_another_kind_are_refused():
    with pytest.raises(pml.UnsupportedModel, match="layer 3 are no gate_up_proj"):
        Experts.of(nn.ModuleList([nn.Linear(2, 2)]), "layer 3")
    other = copy.deepcopy(blocks(tiny_moe("mixtral"))[0].experts)
    other.has_bias = True
    with pytest.raises(pml.UnsupportedModel, match="biases"):
        Experts.of(other, "layer 0")
    other.has_bias, other.down_proj = False, nn.Parameter(other.down_proj.to(torch.int8), requires_grad=False)
    with pytest.raises(pml.UnsupportedModel, match="int8"):
        Experts.of(other, "layer 0")


def draw_masks(model, sets: int) -> torch.Tensor:
    """(layers, sets, E I) bool."""
    generator, width = torch.Generator().manual_seed(1), Experts.of(blocks(model)[0].experts, "").width
    return torch.rand(len(blocks(model)), sets, width, generator=generator) < 0.3


def zeroed(model, masks: torch.Tensor):
    """A copy of the model without the neurons of masks (layers, E I)."""
    model = copy.deepcopy(model)
    for layer, n in masks.nonzero().tolist():
        zero(blocks(model)[layer].experts, n)
    return model


def masking(model, masks: torch.Tensor, mask_ids: torch.Tensor | None = None) -> ExitStack:
    stack = ExitStack()
    for block, of_layer in zip(blocks(model), masks):
        experts = Experts.of(block.experts, "")

        def change(routed, experts=experts, of_layer=of_layer):
            return experts.masked(routed, of_layer, mask_ids)

        stack.enter_context(changing(experts, change))
    return stack
