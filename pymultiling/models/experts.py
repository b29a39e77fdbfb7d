"""Mixture-of-experts FFNs (Mixtral, Qwen3-MoE, OLMoE, gpt-oss): their neurons, statistics of them, and changes to them.

transformers keeps a layer's experts in one module, whose forward `change_hidden` replaces. A neuron is a pair (expert
e, index i); its index among the E I neurons of a layer is e I + i. Setting a neuron to zero does not change the
router. With p the router's weight of the token for the expert

    importance = sum over the tokens t routed to e of p[t]^2 hidden[t, i]^2 ||W_down,e[:, i]||^2           exact
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pymultiling.errors import UnsupportedModel
from pymultiling.mathematics.masking import apply_masks
from pymultiling.mathematics.sums import document_sum, upcast
from pymultiling.models.attached import attached_items, replace
from pymultiling.models.blocks import Block
from pymultiling.models.linear import is_plain
from pymultiling.models.routing import (
    USUAL_LAYOUT,
    Change,
    ExpertsLayout,
    ExpertsModule,
    Routed,
    attribute_at,
    down_weight,
    hidden_product,
    run_experts,
    run_on_scaled_inputs,
)
from pymultiling.ops import active_count, column_energy, group_tokens, mask_neurons

# transformers' names of properties of experts that the shapes of the weights do not show.
UNSUPPORTED_FLAGS = ("has_post_expert_norm", "_is_expert_parallel")


@dataclass(frozen=True, eq=False)
class Experts:
    """A module of E experts with I neurons each, with the parameters gate_up_proj and down_proj.

    D is the hidden size. S, in the methods, is the number of rows of `Routed`: one for each token and expert that it is
    routed to. Neuron e I + i of the layer is neuron i of expert e. Where methods have the parameters `documents` and
    `document_count`, they are (tokens,) int64, the document of each token, -1 for padding; and the number of documents.

    Attributes:
        module: the module.
        layout: how it stores its weights.
    """

    module: ExpertsModule
    layout: ExpertsLayout = USUAL_LAYOUT

    @classmethod
    def from_module(cls, module: nn.Module, where: str, layout: ExpertsLayout = USUAL_LAYOUT) -> Experts:
        """Checks the module; `where` names its layer in error messages.

        Raises:
            UnsupportedModel: the module is of another kind.
        """
        if layout.parts is not None:
            return cls(_require_parts(module, where, layout.parts), layout)
        gate_up, down = getattr(module, "gate_up_proj", None), getattr(module, "down_proj", None)
        inputs, width = (2, 1) if layout.transposed else (1, 2)  # the dimensions of down_proj
        if (
            not isinstance(gate_up, Tensor)
            or not isinstance(down, Tensor)
            or not gate_up.ndim == down.ndim == 3
            or gate_up.shape[0] != len(down)
            or gate_up.shape[width] != down.shape[inputs]
            or gate_up.shape[inputs] != 2 * down.shape[width]
        ):
            shapes = ("inputs, 2 width", "width, inputs") if layout.transposed else ("2 width, inputs", "inputs, width")
            raise UnsupportedModel(
                f"the experts of {where} are no gate_up_proj (experts, {shapes[0]}) with a down_proj (experts, "
                f"{shapes[1]}), as transformers 5 has them for a family with transposed_experts={layout.transposed}"
            )
        _require_plain(where, gate_up, down)
        if any(getattr(module, flag, False) for flag in UNSUPPORTED_FLAGS):
            raise UnsupportedModel(
                f"the experts of {where} have norms, or are spread over devices, which is not supported"
            )
        _require_layout(module, where, layout)
        return cls(cast("ExpertsModule", module), layout)

    @property
    def expert_count(self) -> int:
        """Number of experts."""
        return self.down.shape[0]

    @property
    def size(self) -> int:
        """Number of neurons of one expert."""
        return self.down.shape[1 if self.layout.has_down_transposed else 2]

    @property
    def width(self) -> int:
        """Number of neurons of all experts."""
        return self.expert_count * self.size

    @property
    def down(self) -> Tensor:
        """The weights of the down projections, as `down_weight` returns them."""
        return down_weight(self.module, self.layout)

    @property
    def sum_length(self) -> int:
        """How many terms the sums of an up and of a down projection have together: D + I."""
        return sum(self.down.shape[1:])

    def column_norms(self) -> Tensor:
        """Returns (E I,): the squared norm ||W_down,e[:, i]||^2 of each neuron's column."""
        down = self.down.detach()
        if self.layout.has_down_transposed:  # one expert at a time, since the sums are over the last dimension
            return torch.cat([upcast(weight).square().sum(1) for weight in down])
        row_experts = torch.arange(self.expert_count, device=down.device).repeat_interleave(down.shape[1])
        documents = group_tokens(row_experts, self.expert_count, in_order=True)
        return column_energy(down.flatten(0, 1), documents).flatten()

    def down_weights(self) -> Sequence[Tensor]:
        """Returns W_down of each expert, (D, I) each."""
        down = self.down.detach()
        return [weight.T.contiguous() for weight in down] if self.layout.has_down_transposed else list(down)

    def weighted(self, routed: Routed) -> Tensor:
        """Returns p hidden, (S, I), where p is the router's weight, times the factor of the experts' output."""
        x = upcast(routed.hidden) * upcast(routed.weights)[:, None]
        return x if self.layout.output_scale == 1 else x * self.layout.output_scale

    def rows_of_experts(self, routed: Routed) -> list[slice]:
        """Returns the rows of each expert. It waits for the device."""
        ends = torch.bincount(routed.experts, minlength=self.expert_count).cumsum(0).tolist()
        return [slice(start, end) for start, end in pairwise([0, *ends])]

    def energy(self, routed: Routed, documents: Tensor, document_count: int) -> Tensor:
        """Returns (document_count, E I): for each document the sum of the squares of `weighted`."""
        return column_energy(
            self.weighted(routed), self.row_ids(routed, documents), document_count * self.expert_count
        ).view(document_count, -1)

    def active(self, routed: Routed, documents: Tensor, document_count: int) -> Tensor:
        """Returns (document_count, E I) int64: for how many tokens of the document the neuron has gate > 0.

        Only the tokens that are routed to the neuron's expert count.
        """
        return active_count(routed.gate, self.row_ids(routed, documents), document_count * self.expert_count).view(
            document_count, -1
        )

    def magnitude(self, routed: Routed, documents: Tensor, document_count: int) -> Tensor:
        """Returns (document_count, E I): the sum of |up| by document."""
        magnitudes = upcast(routed.up).abs()
        return document_sum(magnitudes, self.row_ids(routed, documents), document_count * self.expert_count).view(
            document_count, -1
        )

    def total_and_tokens(self, routed: Routed, documents: Tensor, document_count: int) -> tuple[Tensor, Tensor]:
        """Returns the sum of `hidden` and the number of tokens that are routed to the neuron's expert, by document.

        The first divided by the second is a neuron's mean. Both are (document_count, E I), the second int64.
        """
        ids, count = self.row_ids(routed, documents), document_count * self.expert_count
        total = document_sum(upcast(routed.hidden), ids, count).view(document_count, -1)
        by_expert = document_sum(routed.tokens.new_ones(len(routed.tokens), 1), ids, count)
        return total, by_expert.expand(-1, self.size).reshape(document_count, -1)

    def mask_hidden(
        self,
        routed: Routed,
        masks: Tensor,
        mask_ids: Tensor | None = None,
        scale: float = 0.0,
        values: Tensor | None = None,
        plain: bool = False,
    ) -> Tensor:
        """Returns `hidden` with some neurons scaled or replaced, as `mask_neurons` does.

        Args:
            routed: what the experts computed.
            masks: (sets, E I) bool, the neurons to change.
            mask_ids: (tokens,) int64, the set of each token, -1 for none. None: the first set for all tokens.
            scale: the factor of the chosen neurons.
            values: (E I,), values that are added to the scaled neurons; None: nothing is added.
            plain: True: use plain PyTorch, because the transforms of torch.func do not support custom operators.
        """
        mask_ids = routed.tokens.new_zeros(len(routed.states)) if mask_ids is None else mask_ids
        expert_masks, ids = masks.reshape(-1, self.size), self.row_ids(routed, mask_ids)
        if values is None:
            return mask_neurons(routed.hidden, expert_masks, ids, scale=scale, backend="torch" if plain else "auto")
        return apply_masks(routed.hidden, expert_masks, ids, scale, values.view(self.expert_count, -1)[routed.experts])

    def neuron_parameters(self, n: int) -> list[Tensor]:
        """Returns views of neuron n's row of gate, its row of up, their biases, and its column of down."""
        if self.layout.parts is not None:
            return [attribute_at(self.module, path)[n] for path in self.layout.parts[:3]]
        e, i = divmod(n, self.size)
        gate_up, down = self.module.gate_up_proj[e], self.module.down_proj[e]
        if self.layout.transposed:
            gate_up, down = gate_up.T, down.T
        rows = (2 * i, 2 * i + 1) if self.layout.interleaved else (i, self.size + i)
        bias: Tensor | None = getattr(self.module, "gate_up_proj_bias", None)
        biases = [] if bias is None else [bias[e, row] for row in rows]
        return [*(gate_up[row] for row in rows), *biases, down[:, i]]

    def hidden(self, gate: Tensor, up: Tensor) -> Tensor:
        """Returns `hidden` of `Routed`, (S, I), for gate and up in this shape."""
        return hidden_product(self.module, self.layout, gate, up)

    def run(self, changes: Sequence[Change], *args: Tensor) -> Tensor:
        """Returns the output of the experts for the arguments of their forward, with the changes applied."""
        return _run(self.layout, self.module, changes, args)

    def summed(self, output: Tensor) -> Tensor:
        """Returns (tokens, D), the sum over experts of the output of their module."""
        return output.view(self.expert_count, -1, output.shape[-1]).sum(0) if self.layout.scaled_inputs else output

    def row_ids(self, routed: Routed, token_ids: Tensor) -> Tensor:
        """Returns (S,) int64: id E + expert for every row, where id is the entry of token_ids (tokens,) for its token.

        An id of -1 stays -1.
        """
        ids = token_ids[routed.tokens]
        return torch.where(ids < 0, ids, ids * self.expert_count + routed.experts)


@contextmanager
def change_hidden(experts: Experts, change: Change) -> Iterator[None]:
    """Inside, the experts call change(routed) as with `attach_change`."""
    with Block() as block:
        attach_change(block, experts, change)
        yield


def attach_change(block: Block, experts: Experts, change: Change) -> None:
    """Until the block ends, the experts call change(routed) where it is on; a tensor that it returns replaces `hidden`.

    The module gets another forward, which is removed at the end. As long as nothing is replaced, its output is bit
    for bit that of transformers' eager experts if the model uses these, and agrees to rounding with other
    implementations. In nested blocks the inner change is applied after the outer one.
    """
    replace(block, experts.module, _FORWARD, change, partial(_run_changed, experts.layout))


def attached_changes(experts: Experts) -> list[Change]:
    """Returns the changes of the blocks that are on, in the order in which they are applied."""
    return attached_items(experts.module, _FORWARD)


_FORWARD = "forward"


def _require_plain(where: str, *weights: Tensor) -> None:
    """Raises UnsupportedModel where weights of experts are spread over processes or quantised."""
    if any(isinstance(weight, DTensor) for weight in weights):
        raise UnsupportedModel(
            f"the experts of {where} are spread over processes (tp_plan): load the model on one device, or on several "
            "with device_map"
        )
    for weight in weights:
        if not is_plain(weight):
            raise UnsupportedModel(
                f"the experts of {where} are {type(weight).__name__} in {weight.dtype}: load the model without "
                "quantisation"
            )


def _require_parts(module: nn.Module, where: str, paths: tuple[str, str, str, str]) -> ExpertsModule:
    """Returns the module where it has what `Family.expert_parts` names, and raises UnsupportedModel otherwise."""
    weights = [attribute_at(module, path) for path in paths[:3]]
    count = getattr(module, "num_experts", 0)
    if (
        not all(isinstance(weight, Tensor) and weight.ndim == 2 for weight in weights)
        or len({weight.shape for weight in weights}) > 1
        or not count
        or len(weights[0]) % count
        or not callable(attribute_at(module, paths[3]))
    ):
        raise UnsupportedModel(
            f"the experts of {where} are not {', '.join(paths[:3])}, (experts * width, inputs) each, with the "
            f"activation {paths[3]} and the number num_experts, as the family's expert_parts says: correct the "
            "family's entry with register_family"
        )
    _require_plain(where, *weights)
    return cast("ExpertsModule", module)


def _require_layout(module: nn.Module, where: str, layout: ExpertsLayout) -> None:
    """Raises UnsupportedModel where transformers describes the module otherwise than the family's entry."""
    is_clamped = layout.clamped_swiglu is not None
    for field, given, found in (
        ("transposed_experts", layout.transposed, getattr(module, "is_transposed", layout.transposed)),
        ("interleaved_experts", layout.interleaved, not getattr(module, "is_concatenated", not layout.interleaved)),
        ("clamped_swiglu", is_clamped, not callable(getattr(module, "act_fn", None))),
    ):
        if given != found:
            raise UnsupportedModel(
                f"the experts of {where} do not fit the family's {field}: correct the family's entry with "
                "register_family"
            )
    for name in ("gate_up_proj_bias", "down_proj_bias"):
        if getattr(module, "has_bias", False) != isinstance(getattr(module, name, None), Tensor):
            raise UnsupportedModel(f"the experts of {where} have no {name} where transformers says so, or the reverse")


def _run_changed(
    layout: ExpertsLayout,
    module: nn.Module,
    original: Callable[..., Any],
    changes: Sequence[Change],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Tensor:
    return _run(layout, cast("ExpertsModule", module), changes, args, **kwargs)


def _run(
    layout: ExpertsLayout, module: ExpertsModule, changes: Sequence[Change], args: tuple[Any, ...], **kwargs: Any
) -> Tensor:
    """Runs the experts on the arguments of their forward."""
    run: Callable[..., Tensor] = run_on_scaled_inputs if layout.scaled_inputs else run_experts
    return run(module, layout, tuple(changes), *args, **kwargs)
