"""Importance and statistics of experts, against running the block again with one neuron of one expert set to zero."""

import copy
from contextlib import ExitStack
from functools import cache

import pytest
import torch
from torch import nn

import pymultiling as pml
from pymultiling.models.experts import Experts, change_hidden
from tests.support.anatomy import zero_expert_neuron
from tests.support.tiny_models import positions, tiny_batch, tiny_model

MODELS = ("mixtral", "qwen3_moe")
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
PADDINGS = ("left", "right")
STATISTICS = ("active", "magnitude", "tokens", "total")


def tiny_moe(name: str, dtype=torch.float64, implementation: str = "eager"):
    return tiny_model(name, dtype, experts_implementation=implementation)


def blocks(model) -> list:
    return [layer.mlp for layer in model.model.layers]


def run(model, batch):
    """Returns the last layer's output at the valid tokens."""
    mask = batch["attention_mask"]
    output = model.model(**batch, position_ids=positions(mask, model), use_cache=False).last_hidden_state
    return output[mask.bool()]


def documents_of(batch) -> torch.Tensor:
    mask = batch["attention_mask"].bool()
    return torch.where(mask, torch.arange(len(mask))[:, None], -1).flatten()


@torch.no_grad()
def measure_statistic(model, batch, statistic: str) -> torch.Tensor:
    """Returns (documents, layers, E I): a statistic of every layer's E experts with I neurons each, from one forward.

    statistic: one of STATISTICS or "energy". The energy is multiplied by the squared norms of the columns of the down
        projection, which gives the importance.
    """
    documents, count, by_layer = documents_of(batch), len(batch["input_ids"]), {}
    with ExitStack() as stack:
        for layer, block in enumerate(blocks(model)):
            experts = Experts.from_module(block.experts, f"layer {layer}")

            def keep(routed, layer=layer, experts=experts):
                if statistic in ("total", "tokens"):
                    total, tokens = experts.total_and_tokens(routed, documents, count)
                    by_layer[layer] = total if statistic == "total" else tokens
                    return
                by_layer[layer] = getattr(experts, statistic)(routed, documents, count)
                if statistic == "energy":
                    by_layer[layer] = by_layer[layer] * experts.column_norms()

            stack.enter_context(change_hidden(experts, keep))
        run(model, batch)
    return torch.stack([by_layer[layer] for layer in range(len(by_layer))], 1)


def block_inputs(model, batch) -> list[torch.Tensor]:
    inputs = []
    handles = [block.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for block in blocks(model)]
    run(model, batch)
    for handle in handles:
        handle.remove()
    return inputs


@cache
@torch.no_grad()
def brute_force_importance(name: str, padding: str) -> torch.Tensor:
    """Returns (documents, layers, E I): importance in float64."""
    model, batch = tiny_moe(name), tiny_batch(padding=padding)
    valid, layers = batch["attention_mask"].bool(), []
    for block, x in zip(blocks(model), block_inputs(model, batch)):
        width, before, changes = Experts.from_module(block.experts, "").width, block(x), []
        for n in range(width):
            parameters = copy.deepcopy(block.experts.state_dict())
            zero_expert_neuron(block.experts, n, ("gate", "up", "down")[n % 3])
            changes.append(torch.where(valid, (block(x) - before).square().sum(-1), 0).sum(1))
            block.experts.load_state_dict(parameters)
        layers.append(torch.stack(changes, 1))
    return torch.stack(layers, 1)


@torch.no_grad()
def statistics_token_by_token(model, batch) -> dict[str, torch.Tensor]:
    """Returns {statistic: (documents, layers, E I)}, computed from each token's block input and the router's choice."""
    documents, statistics = documents_of(batch), {name: [] for name in (*STATISTICS, "energy")}
    for block, x in zip(blocks(model), block_inputs(model, batch)):
        x = x.flatten(0, 1)
        _, weights, chosen = block.gate(x)
        gate_up, down = block.experts.gate_up_proj.double(), block.experts.down_proj.double()
        sums = {name: gate_up.new_zeros(len(batch["input_ids"]), *down.shape[::2]) for name in statistics}
        for token in range(len(x)):
            for e, p in zip(chosen[token].tolist(), weights[token].double()) if documents[token] >= 0 else ():
                gate, up = (gate_up[e] @ x[token].double()).chunk(2)
                hidden, place = nn.functional.silu(gate) * up, (documents[token], e)
                sums["energy"][place] += (p * hidden).square() * down[e].square().sum(0)
                sums["active"][place] += gate > 0
                sums["tokens"][place] += 1
                sums["total"][place] += hidden
                sums["magnitude"][place] += up.abs()
        for name, values in sums.items():
            statistics[name].append(values.flatten(1))
    return {name: torch.stack(layers, 1) for name, layers in statistics.items()}


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", MODELS)
def test_float64_importance_is_brute_force(name, padding):
    truth = brute_force_importance(name, padding)
    assert (truth > 0).float().mean() > 0.8  # zeros are of experts to which no token of the document is routed
    result = measure_statistic(tiny_moe(name), tiny_batch(padding=padding), "energy")
    assert result.dtype == torch.float64 and torch.equal(result > 0, truth > 0)
    torch.testing.assert_close(result, truth, rtol=1e-9, atol=0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", MODELS)
def test_float32_importance_is_float64_brute_force(name, padding, implementation):
    result = measure_statistic(tiny_moe(name, torch.float32, implementation), tiny_batch(padding=padding), "energy")
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), brute_force_importance(name, padding), rtol=1e-3, atol=0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_importance_is_close(name, implementation):
    """The reference has the same routing, because in 16 bits the router sends some tokens to other experts."""
    model, batch = tiny_moe(name, torch.bfloat16, implementation), tiny_batch(padding="left")
    result, truth = measure_statistic(model, batch, "energy"), statistics_token_by_token(model, batch)["energy"]
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), truth, rtol=0.05, atol=1e-3 * truth.max().item())


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("statistic", STATISTICS)
def test_statistics_are_sums_over_routed_tokens(statistic, name, padding):
    model, batch = tiny_moe(name), tiny_batch(padding=padding)
    result, truth = measure_statistic(model, batch, statistic), statistics_token_by_token(model, batch)[statistic]
    assert result.dtype == (torch.int64 if statistic in ("active", "tokens") else torch.float64)
    torch.testing.assert_close(result.double(), truth, rtol=1e-12, atol=1e-14)


def test_experts_of_another_kind_are_refused():
    with pytest.raises(pml.UnsupportedModel, match="layer 3 are no gate_up_proj"):
        Experts.from_module(nn.ModuleList([nn.Linear(2, 2)]), "layer 3")
    experts = copy.deepcopy(blocks(tiny_moe("mixtral"))[0].experts)
    experts.has_bias = True
    with pytest.raises(pml.UnsupportedModel, match="no gate_up_proj_bias"):
        Experts.from_module(experts, "layer 0")
    experts.has_bias, experts.down_proj = False, nn.Parameter(experts.down_proj.to(torch.int8), requires_grad=False)
    with pytest.raises(pml.UnsupportedModel, match="int8"):
        Experts.from_module(experts, "layer 0")
