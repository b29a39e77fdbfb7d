"""Runs transformers' experts on the tokens that the router sends them; callers can change the hidden activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pymultiling.runtime.gpus import capability

GROUPED_FROM = (8, 0)  # the NVIDIA compute capability that torch's grouped_mm needs


@dataclass(frozen=True)
class ExpertsLayout:
    """How a family's experts store their weights, and what they compute. `Family` explains the fields.

    Attributes:
        transposed: as `transposed_experts`.
        interleaved: as `interleaved_experts`.
        clamped_swiglu: as in `Family`.
        scaled_inputs: as `scaled_expert_inputs`.
        parts: as `expert_parts`.
        output_scale: as `routed_scale`.
    """

    transposed: bool = False
    interleaved: bool = False
    clamped_swiglu: tuple[float, float] | None = None
    scaled_inputs: bool = False
    parts: tuple[str, str, str, str] | None = None
    output_scale: float = 1.0

    @property
    def has_down_transposed(self) -> bool:
        """Whether `down_weight` is (E, I, D)."""
        return self.transposed or self.parts is not None


USUAL_LAYOUT = ExpertsLayout()


class ExpertsModule(nn.Module):
    """Declares the attributes of transformers' modules of experts, for type checkers. It is never instantiated.

    Attributes:
        gate_up_proj: (E, 2 I, D), for E experts with I neurons each, and hidden states of width D. The rows of the gate
            projection come first, then those of the up projection. `ExpertsLayout` says what differs.
        down_proj: (E, D, I).
        act_fn: the activation function.
        num_experts: E, where `ExpertsLayout.parts` names the parameters.
    """

    gate_up_proj: nn.Parameter
    down_proj: nn.Parameter
    act_fn: Callable[[Tensor], Tensor]
    num_experts: int


def attribute_at(module: nn.Module, path: str) -> Any:
    """Returns what is at a path such as "mlp.w1" inside a module; None if nothing is there."""
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def down_weight(module: ExpertsModule, layout: ExpertsLayout) -> Tensor:
    """Returns the weights of the down projections: (E, D, I), or (E, I, D) with `has_down_transposed`."""
    return module.down_proj if layout.parts is None else _stacked(module, layout.parts[2])


def _stacked(module: ExpertsModule, path: str) -> Tensor:
    weight: Tensor = attribute_at(module, path)
    return weight.view(module.num_experts, -1, weight.shape[-1])


class Routed(NamedTuple):
    """What a layer's experts compute. It has S rows, one for each token and expert that it is routed to, by expert.

    Attributes:
        states: (tokens, D), the hidden states that the experts get; with `scaled_inputs` those that the first one gets.
        tokens: (S,) int64, the token of each row.
        experts: (S,) int64, the expert of each row.
        weights: (S,), the router's weight of each row; with `scaled_inputs` 1, since `hidden` has the router's weight.
        gate: (S, I), the output of the gate projection.
        up: (S, I), the output of the up projection.
        hidden: (S, I), act(gate) * up, or the clamped product of `Family.clamped_swiglu`.
    """

    states: Tensor
    tokens: Tensor
    experts: Tensor
    weights: Tensor
    gate: Tensor
    up: Tensor
    hidden: Tensor


# Gets what the experts computed, and returns the tensor that replaces `hidden`, or None to keep it.
Change: TypeAlias = Callable[[Routed], Tensor | None]


def run_experts(
    module: ExpertsModule,
    layout: ExpertsLayout,
    changes: tuple[Change, ...],
    states: Tensor,
    index: Tensor,
    weights: Tensor,
) -> Tensor:
    """Runs a layer's experts, with the changes applied to `hidden` one after the other.

    Args:
        module: the experts.
        layout: how they store their weights.
        changes: called in this order; each sees what the earlier ones have changed.
        states: (T, D), the hidden states of T tokens; or (.., D), T in all.
        index: (T, k) int64, the experts that the router chose for each token.
        weights: (T, k), the router's weights.

    Returns:
        The output of the experts, in the shape of `states`.
    """
    shape, states = states.shape, states.flatten(0, -2)
    tokens, top_k = index.shape
    # Experts without a configuration have one implementation, which is the eager one.
    implementation = getattr(getattr(module, "config", None), "_experts_implementation", "eager")
    is_eager = implementation == "eager"
    if is_eager:  # the order in which transformers' eager implementation takes the rows of an expert
        index, weights = index.T, weights.T
    order = index.flatten().argsort(stable=True)
    experts, row_tokens = index.flatten()[order], order % tokens if is_eager else order // top_k
    weights, count = weights.flatten()[order], len(down_weight(module, layout))
    ends = torch.searchsorted(experts, torch.arange(count, device=experts.device), right=True, out_int32=True)
    is_grouped = implementation == "grouped_mm" and _has_grouped(states)
    if is_grouped:
        gate, up, hidden = _gate_up_hidden_grouped(module, layout, states[row_tokens], experts, ends)
    else:
        parts = _parts(ends)
        gate, up, hidden = _gate_up_hidden(module, layout, states[row_tokens], parts)
    routed = Routed(states, row_tokens, experts, weights, gate, up, hidden)
    for change in changes:
        changed = change(routed)
        routed = routed if changed is None else routed._replace(hidden=changed)
    if is_grouped:
        out = _grouped(module, "down_proj", layout, routed.hidden, experts, ends)
    else:
        out = _down(module, layout, routed.hidden, parts)
    out = out * weights[:, None]
    if not is_eager:
        return out[order.argsort()].view(tokens, top_k, -1).sum(1).to(states.dtype).view(shape)
    total = torch.zeros_like(states)
    # The outputs of a token's experts are added one after the other, as the eager implementation does.
    for rows in row_tokens.argsort(stable=True).view(tokens, top_k).T:
        total = total + out[rows].to(total.dtype)
    return total.view(shape)


def run_on_scaled_inputs(
    module: ExpertsModule, layout: ExpertsLayout, changes: tuple[Change, ...], inputs: Tensor
) -> Tensor:
    """Runs a layer's experts on inputs that the router's weights have multiplied, with changes as in `run_experts`.

    A token is routed to the experts for which its input is not zero.

    Args:
        module: the experts.
        layout: how they store their weights.
        changes: as in `run_experts`.
        inputs: (E T, D), the inputs of expert 0 for T tokens, then those of expert 1, and so on.

    Returns:
        (E T, D), the outputs of the experts in the same order.
    """
    gate_up, down = (
        weight if layout.transposed else weight.transpose(-2, -1) for weight in (module.gate_up_proj, module.down_proj)
    )
    x = inputs.view(len(down), -1, inputs.shape[-1])
    gate, up = _split(layout, torch.bmm(x, gate_up))
    hidden = hidden_product(module, layout, gate, up)
    if changes:
        rows = _routed_rows(x)
        experts, tokens = rows
        weights = x.new_ones(len(tokens))
        routed = Routed(x[0], tokens, experts, weights, gate[rows], up[rows], hidden[rows])
        for change in changes:
            changed = change(routed)
            routed = routed if changed is None else routed._replace(hidden=changed)
        hidden = hidden.index_put(rows, routed.hidden)
    return torch.bmm(hidden, down).view(inputs.shape)


# Not compiled, because the number of rows of every expert differs from call to call.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _routed_rows(x: Tensor) -> tuple[Tensor, ...]:
    """Returns the experts and the tokens of the rows of x, (E, T, D), that are not zero."""
    return x.any(-1).nonzero(as_tuple=True)


# Not compiled, because the number of rows of every expert differs from call to call.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _parts(ends: Tensor) -> list[tuple[int, slice]]:
    """Returns each expert that has rows, with its rows. It waits for the device.

    ends: (E,) int32, the row after the last row of each expert.
    """
    bounds = [0, *ends.cpu().tolist()]
    return [(e, slice(start, end)) for e, (start, end) in enumerate(pairwise(bounds)) if start < end]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _gate_up_hidden(
    module: ExpertsModule, layout: ExpertsLayout, x: Tensor, parts: list[tuple[int, slice]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes gate, up and hidden, each (S, I).

    Args:
        module: the experts.
        layout: how they store their weights.
        x: (S, D), hidden states, sorted by expert.
        parts: each expert that has rows, with its rows.
    """
    pairs = [_gate_and_up(module, layout, x[rows], e) for e, rows in parts]
    hidden = torch.cat([hidden_product(module, layout, gate, up) for gate, up in pairs])
    return torch.cat([gate for gate, _ in pairs]), torch.cat([up for _, up in pairs]), hidden


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _down(module: ExpertsModule, layout: ExpertsLayout, hidden: Tensor, parts: list[tuple[int, slice]]) -> Tensor:
    if layout.parts is not None:
        weight = down_weight(module, layout)
        return torch.cat([hidden[rows] @ weight[e] for e, rows in parts])
    return torch.cat([_project(module, "down_proj", layout, hidden[rows], e) for e, rows in parts])


def _gate_and_up(module: ExpertsModule, layout: ExpertsLayout, x: Tensor, e: int) -> tuple[Tensor, Tensor]:
    """Returns gate and up of expert e for x (rows, inputs), bit for bit as the eager experts compute them."""
    if layout.parts is None:
        return _split(layout, _project(module, "gate_up_proj", layout, x, e))
    gate, up = (_stacked(module, path)[e] for path in layout.parts[:2])
    return F.linear(x, gate), F.linear(x, up)


def _project(module: ExpertsModule, name: str, layout: ExpertsLayout, x: Tensor, e: int) -> Tensor:
    """Returns the output of expert e's projection for x (rows, inputs), bit for bit as the eager experts compute it."""
    weight: Tensor = getattr(module, name)[e]
    bias: Tensor | None = getattr(module, f"{name}_bias", None)
    if not layout.transposed:
        return F.linear(x, weight, None if bias is None else bias[e])
    return x @ weight if bias is None else x @ weight + bias[e]


def _split(layout: ExpertsLayout, gate_up: Tensor) -> tuple[Tensor, Tensor]:
    """Returns gate and up, for gate_up (S, 2 I)."""
    if layout.interleaved:
        return gate_up[..., ::2], gate_up[..., 1::2]
    gate, up = gate_up.chunk(2, dim=-1)
    return gate, up


def hidden_product(module: ExpertsModule, layout: ExpertsLayout, gate: Tensor, up: Tensor) -> Tensor:
    """Returns `hidden` of `Routed`, in the order of operations of the eager experts."""
    if layout.clamped_swiglu is None:
        activation = module.act_fn if layout.parts is None else attribute_at(module, layout.parts[3])
        hidden: Tensor = activation(gate) * up
        return hidden
    slope, limit = layout.clamped_swiglu
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (up + 1) * (gate * torch.sigmoid(gate * slope))


def _has_grouped(x: Tensor) -> bool:
    """Whether one launch multiplies all experts. On the CPU, PyTorch's grouped_mm loops over them as well."""
    return x.is_cuda and capability(x.device) >= GROUPED_FROM


def _gate_up_hidden_grouped(
    module: ExpertsModule, layout: ExpertsLayout, x: Tensor, experts: Tensor, ends: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    gate, up = _split(layout, _grouped(module, "gate_up_proj", layout, x, experts, ends))
    return gate, up, hidden_product(module, layout, gate, up)


def _grouped(
    module: ExpertsModule, name: str, layout: ExpertsLayout, x: Tensor, experts: Tensor, ends: Tensor
) -> Tensor:
    """Multiplies each row of x (S, inputs) by the weight of its expert, and adds its bias: (S, outputs)."""
    weight: Tensor = getattr(module, name)
    bias: Tensor | None = getattr(module, f"{name}_bias", None)
    multiply = getattr(F, "grouped_mm", None) or torch._grouped_mm
    columns = weight if layout.transposed else weight.transpose(-2, -1)  # (E, inputs, outputs)
    product: Tensor = multiply(x.to(weight.dtype), columns, offs=ends)
    return product if bias is None else product + bias[experts]
