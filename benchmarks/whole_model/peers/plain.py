"""The plain Hugging Face model, read with hooks of torch, and the published formulation of query importance in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from benchmarks.operators.published import published_q
from benchmarks.whole_model.peers.formulas import GATE, HIDDEN, MIXED, Cached

ATTENTION = "published_query_importance"  # transformers' name of the attention below


class Hooked:
    """A model with hooks of torch, see `Peer`."""

    def __init__(self, model: PreTrainedModel, tokens: Tensor):
        self._model, self._tokens = model, tokens

    def forward(self) -> Tensor:
        return self._model.base_model(input_ids=self._tokens, use_cache=False).last_hidden_state

    def cache(self, names: Iterable[str]) -> Cached:
        cached: Cached = {name: [] for name in names}
        handles = []
        for layer in self._model.model.layers:
            modules = {GATE: layer.mlp.gate_proj, HIDDEN: layer.mlp.down_proj, MIXED: layer.self_attn.o_proj}
            handles += [modules[name].register_forward_hook(_keep(name, cached[name])) for name in cached]
        try:
            self.forward()
        finally:
            for handle in handles:
                handle.remove()
        return cached

    def without(self, layer: int, neuron: int) -> Tensor:
        def zero(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            changed = args[0].clone()
            changed[..., neuron] = 0
            return (changed,)

        handle = self._model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(zero)
        try:
            return self.forward()
        finally:
            handle.remove()


def _keep(name: str, tensors: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
    """Returns a hook that keeps a module's output, or its input where `name` asks for it."""
    return lambda _, args, output: tensors.append(output if name == GATE else args[0])


def published_queries(model: PreTrainedModel, tokens: Tensor) -> Callable[[], Tensor]:
    """Returns a function that runs the forward and returns (layers, neurons), q by the published formulation.

    model: its attention is replaced.
    """
    values: list[Tensor] = []

    def attention(module: nn.Module, q: Tensor, k: Tensor, *args: object, scaling: float, **more: object) -> object:
        values.append(published_q(q, k, scaling).flatten())
        return sdpa_attention_forward(module, q, k, *args, scaling=scaling, **more)

    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)

    def run() -> Tensor:
        values.clear()
        model.base_model(input_ids=tokens, use_cache=False)
        return torch.stack(values)

    return run
