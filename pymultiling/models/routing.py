"""What transformers' experts compute for the tokens that the router sends them, with a look at it on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPED_FROM = (8, 0)  # NVIDIA's compute capability that torch's grouped_mm asks for


class Routed(NamedTuple):
    """What a layer's experts make of their input `states` (tokens, D): a row for each token and expert it is routed to.

    Rows are sorted by expert. tokens, experts: (S,) int64; weights: (S,), the router's; gate, up, hidden: (S, I),
    hidden = act(gate) * up.
    """

    states: Tensor
    tokens: Tensor
    experts: Tensor
    weights: Tensor
    gate: Tensor
    up: Tensor
    hidden: Tensor


Change = Callable[[Routed], Tensor | None]


def run_experts(
    module: nn.Module, changes: tuple[Change, ...], states: Tensor, index: Tensor, weights: Tensor
) -> Tensor:
    """states (T, D), the experts that the router chose for them and its weights (T, k) -> (T, D).

    Every change is called with what there is, and what it gives, if anything, replaces `hidden`.
    """
    tokens, top_k = index.shape
    implementation = getattr(getattr(module, "config", None), "_experts_implementation", None)
    eager = implementation == "eager"
    if eager:  # the order in which it takes the rows of an expert
        index, weights = index.T, weights.T
    order = index.flatten().argsort(stable=True)
    experts, token_of = index.flatten()[order], order % tokens if eager else order // top_k
    weights, count = weights.flatten()[order], len(module.down_proj)
    ends = torch.searchsorted(experts, torch.arange(count, device=experts.device), right=True, out_int32=True)
    grouped = implementation == "grouped_mm" and _has_grouped(states)
    gate, up, hidden = (_up_at_once if grouped else _up)(module, states[token_of], ends)
    routed = Routed(states, token_of, experts, weights, gate, up, hidden)
    for change in changes:
        changed = change(routed)
        routed = routed if changed is None else routed._replace(hidden=changed)
    out = (_down_at_once if grouped else _down)(module, routed.hidden, ends) * weights[:, None]
    if not eager:
        return out[order.argsort()].view(tokens, top_k, -1).sum(1).to(states.dtype)
    total = torch.zeros_like(states)
    for rows in token_of.argsort(stable=True).view(tokens, top_k).T:  # a token's experts one after the other
        total = total + out[rows].to(total.dtype)
    return total


@torch.compiler.disable  # the rows of every expert are others at every call
def _up(module: nn.Module, x: Tensor, ends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (S, D) sorted by expert, where each one's rows end (E,) int32 -> gate, up and hidden (S, I)."""
    pairs = [F.linear(part, module.gate_up_proj[e]).chunk(2, dim=-1) for e, part in _by_expert(x, ends)]
    hidden = torch.cat([module.act_fn(gate) * up for gate, up in pairs])
    return *(torch.cat(parts) for parts in zip(*pairs)), hidden


@torch.compiler.disable
def _down(module: nn.Module, hidden: Tensor, ends: Tensor) -> Tensor:
    return torch.cat([F.linear(part, module.down_proj[e]) for e, part in _by_expert(hidden, ends)])


def _by_expert(x: Tensor, ends: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The experts that have rows, and these."""
    return ((e, part) for e, part in enumerate(x.tensor_split(ends.tolist()[:-1])) if len(part))


def _has_grouped(x: Tensor) -> bool:
    """Whether one launch multiplies all experts; on the CPU PyTorch, too, goes through them one by one."""
    return x.is_cuda and torch.cuda.get_device_capability(x.device) >= GROUPED_FROM


def _up_at_once(module: nn.Module, x: Tensor, ends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gate, up = _grouped(x, module.gate_up_proj, ends).chunk(2, dim=-1)
    return gate, up, module.act_fn(gate) * up


def _down_at_once(module: nn.Module, hidden: Tensor, ends: Tensor) -> Tensor:
    return _grouped(hidden, module.down_proj, ends)


def _grouped(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """x (S, inputs) sorted by expert, weight (E, outputs, inputs) -> (S, outputs)."""
    multiply = getattr(F, "grouped_mm", None) or torch._grouped_mm
    return multiply(x.to(weight.dtype), weight.transpose(-2, -1), offs=ends)
