"""Mixture-of-experts FFNs (Mixtral, Qwen3-MoE, OLMoE): seeing and changing what experts make of the tokens they get.

transformers keeps a layer's experts in one module, whose forward the experts here take over for a while. A neuron is
(expert e, index i), and index e I + i of a layer's E I; zeroing it leaves the router as it is, and with p the router's
weight of the token for the expert

    importance = sum over the tokens t routed to e of p[t]^2 hidden[t, i]^2 ||W_down,e[:, i]||^2           exact
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pymultiling.errors import UnsupportedModel
from pymultiling.mathematics.masking import apply_masks
from pymultiling.mathematics.sums import document_sum, upcast
from pymultiling.models.linear import DTYPES
from pymultiling.models.routing import Change, Routed, run_experts
from pymultiling.ops import active_count, column_energy, mask_neurons

# transformers' names of what experts may have, or be, that is not seen in the shapes of their weights.
OTHER_KINDS = ("has_bias", "has_post_expert_norm", "is_transposed", "_is_expert_parallel")


@dataclass(frozen=True, eq=False)
class Experts:
    """A module of E experts of width I: its parameters are gate_up_proj (E, 2 I, D) and down_proj (E, D, I)."""

    module: nn.Module

    @classmethod
    def of(cls, module: nn.Module, where: str) -> Experts:
        """UnsupportedModel where the module is another."""
        gate_up, down = (getattr(module, name, None) for name in ("gate_up_proj", "down_proj"))
        shaped = isinstance(gate_up, Tensor) and isinstance(down, Tensor) and gate_up.ndim == down.ndim == 3
        if not shaped or gate_up.shape != (len(down), 2 * down.shape[2], down.shape[1]):
            raise UnsupportedModel(
                f"the experts of {where} are no gate_up_proj (experts, 2 width, inputs) with a down_proj (experts, "
                "inputs, width), as transformers 5 has them"
            )
        if isinstance(down, DTensor):
            raise UnsupportedModel(
                f"the experts of {where} are spread over processes (tp_plan): load the model on one device, or on several "
                "with device_map"
            )
        if gate_up.dtype not in DTYPES or down.dtype not in DTYPES:
            raise UnsupportedModel(f"the experts of {where} are in {down.dtype}: load the model without quantisation")
        if any(getattr(module, name, False) for name in OTHER_KINDS) or not getattr(module, "is_concatenated", True):
            raise UnsupportedModel(
                f"the experts of {where} have biases or norms, keep their weights in another order, or are spread over "
                "devices, which is not supported"
            )
        return cls(module)

    @property
    def count(self) -> int:
        return self.module.down_proj.shape[0]

    @property
    def size(self) -> int:
        """Neurons of one expert."""
        return self.module.down_proj.shape[2]

    @property
    def width(self) -> int:
        """Neurons of all experts."""
        return self.count * self.size

    def column_norms(self) -> Tensor:
        """(E I,): ||W_down,e[:, i]||^2."""
        down = self.module.down_proj.detach()
        expert_of = torch.arange(self.count, device=down.device).repeat_interleave(down.shape[1])
        return column_energy(down.flatten(0, 1), expert_of, self.count).flatten()

    def energy(self, routed: Routed, documents: Tensor, count: int) -> Tensor:
        """(count, E I): sum of (p hidden)^2 by document; documents: (tokens,) int64, -1 for padding."""
        x = upcast(routed.hidden) * upcast(routed.weights)[:, None]
        return column_energy(x, self.ids(routed, documents), count * self.count).view(count, -1)

    def active(self, routed: Routed, documents: Tensor, count: int) -> Tensor:
        """(count, E I) int64: in how many of its tokens that are routed to the expert gate > 0, by document."""
        return active_count(routed.gate, self.ids(routed, documents), count * self.count).view(count, -1)

    def magnitude(self, routed: Routed, documents: Tensor, count: int) -> Tensor:
        """(count, E I): sum of |up| by document."""
        return document_sum(upcast(routed.up).abs(), self.ids(routed, documents), count * self.count).view(count, -1)

    def total(self, routed: Routed, documents: Tensor, count: int) -> Tensor:
        """(count, E I): sum of `hidden` by document; over `tokens` it is a neuron's mean."""
        return document_sum(upcast(routed.hidden), self.ids(routed, documents), count * self.count).view(count, -1)

    def tokens(self, routed: Routed, documents: Tensor, count: int) -> Tensor:
        """(count, E I) int64: how many of a document's tokens are routed to the neuron's expert."""
        one = routed.tokens.new_ones(len(routed.tokens), 1)
        found = document_sum(one, self.ids(routed, documents), count * self.count)
        return found.expand(-1, self.size).reshape(count, -1)

    def masked(
        self,
        routed: Routed,
        masks: Tensor,
        mask_ids: Tensor | None = None,
        scale: float = 0.0,
        values: Tensor | None = None,
        plain: bool = False,
    ) -> Tensor:
        """`hidden` with neurons changed as `mask_neurons` does: masks (sets, E I), mask_ids (tokens,), values (E I,).

        plain: by plain PyTorch, which torch.func's transforms know, and a custom operator does not.
        """
        mask_ids = routed.tokens.new_zeros(len(routed.states)) if mask_ids is None else mask_ids
        by_expert, ids = masks.reshape(-1, self.size), self.ids(routed, mask_ids)
        if values is None:
            return mask_neurons(routed.hidden, by_expert, ids, scale=scale, backend="torch" if plain else "auto")
        return apply_masks(routed.hidden, by_expert, ids, scale, values.view(self.count, -1)[routed.experts])

    def parameters_of(self, n: int) -> list[Tensor]:
        """Views of the row of gate, the row of up and the column of down that are neuron n."""
        (e, i), gate_up, down = divmod(n, self.size), self.module.gate_up_proj, self.module.down_proj
        return [gate_up[e, i], gate_up[e, self.size + i], down[e, :, i]]

    def ids(self, routed: Routed, of_tokens: Tensor) -> Tensor:
        """(S,): id E + expert of every row, for ids (tokens,); -1 stays."""
        ids = of_tokens[routed.tokens]
        return torch.where(ids < 0, ids, ids * self.count + routed.experts)


@contextmanager
def changing(experts: Experts, change: Change) -> Iterator[None]:
    """Inside, change(routed) is called at every forward of the experts; what it gives, if anything, replaces `hidden`.

    The module gets a forward of its own, which is taken away again. While nothing is replaced its output is bit for bit
    that of transformers' eager experts if the model runs on these, and agrees to rounding with other implementations.
    Contexts nest, the inner one's change follows the outer one's.
    """
    module, own = experts.module, vars(experts.module).get("forward")
    changes = (*getattr(own, "changes", ()), change)

    def forward(hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        return run_experts(module, changes, hidden_states, top_k_index, top_k_weights)

    forward.changes = changes
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
