"""A model in nnsight, which is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.whole_model.peers.formulas import GATE, HIDDEN, MIXED, Cached


class Traced:
    """A model in nnsight, see `Peer`.

    Args:
        model: the model, whose modules nnsight wraps.
        tokens: (1, length), the document.
    """

    def __init__(self, model: PreTrainedModel, tokens: Tensor):
        from nnsight import NNsight

        self._model, self._tokens = NNsight(model.base_model), tokens

    def forward(self) -> Tensor:
        with self._model.trace(input_ids=self._tokens, use_cache=False):
            states = self._model.norm.output.save()
        return states  # noqa: RET504, the block of a trace cannot return

    def cache(self, names: Iterable[str]) -> Cached:
        names = tuple(names)
        with self._model.trace(input_ids=self._tokens, use_cache=False):
            cached = {name: [] for name in names}.save()
            for layer in self._model.layers:  # in the order of the forward
                if MIXED in names:
                    cached[MIXED].append(layer.self_attn.o_proj.input)
                if GATE in names:
                    cached[GATE].append(layer.mlp.gate_proj.output)
                if HIDDEN in names:
                    cached[HIDDEN].append(layer.mlp.down_proj.input)
        return cached

    def without(self, layer: int, neuron: int) -> Tensor:
        with self._model.trace(input_ids=self._tokens, use_cache=False):
            self._model.layers[layer].mlp.down_proj.input[..., neuron] = 0
            states = self._model.norm.output.save()
        return states  # noqa: RET504, the block of a trace cannot return
