"""Activation counts and importance of ffn, v and o by plain PyTorch, from tensors that a forward has cached."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pymultiling.ops.reference.active_count import active_count
from pymultiling.ops.reference.column_energy import column_energy
from pymultiling.ops.reference.value_energy import value_energy, value_gram

Cached = dict[str, list[Tensor]]  # {name: a tensor (1, tokens, width) of every layer}
# The names: outputs of the gate projections, inputs of the down projections, and inputs of o_proj.
GATE, HIDDEN, MIXED = "gate", "hidden", "mixed"


class Formulas:
    """The references of the operators, applied to the cached tensors of one document.

    What depends on the weights alone is computed once, as in a pass of pymultiling.

    Args:
        model: a model whose modules have Llama's names, without norms behind its sublayers.
        change: is applied to the references, for example torch.compile.

    Raises:
        ValueError: the model has norms behind its sublayers, as Gemma 3.
    """

    def __init__(self, model: PreTrainedModel, change: Callable[[Callable], Callable] = lambda reference: reference):
        self._count, self._energy, self._values = map(change, (active_count, column_energy, value_energy))
        config, layers = model.config, model.model.layers
        if hasattr(layers[0], "post_feedforward_layernorm"):
            raise ValueError(
                f"{config.model_type} has norms behind its sublayers: give a model without, such as a Llama"
            )
        size = layers[0].self_attn.head_dim
        downs = [layer.mlp.down_proj.weight for layer in layers]
        outputs = [layer.self_attn.o_proj.weight for layer in layers]
        self._down_norms, self._output_norms = (
            [column_energy(weight, _one_document(weight), 1) for weight in weights] for weights in (downs, outputs)
        )
        self._grams = [value_gram(weight, config.num_key_value_heads, size) for weight in outputs]

    def counts(self, cached: Cached) -> Tensor:
        """Returns (layers, neurons) int64: the tokens in which act(gate) > 0."""
        return torch.cat([self._count(x.flatten(0, -2), _one_document(x[0]), 1) for x in cached[GATE]])

    def importance(self, cached: Cached) -> dict[str, Tensor]:
        """Returns {site: (layers, neurons)}: the squared change of the sublayer's output."""
        values: dict[str, list[Tensor]] = {"ffn": [], "v": [], "o": []}
        for hidden, down in zip(cached[HIDDEN], self._down_norms):
            values["ffn"].append(down * self._energy(hidden.flatten(0, -2), _one_document(hidden[0]), 1))
        for mixed, norms, gram in zip(cached[MIXED], self._output_norms, self._grams):
            x, documents = mixed.flatten(0, -2), _one_document(mixed[0])
            values["o"].append(norms * self._energy(x, documents, 1))
            values["v"].append(self._values(x, gram, documents, 1))
        return {site: torch.cat(tensors) for site, tensors in values.items()}


def _one_document(x: Tensor) -> Tensor:
    """Returns the document of every row of x: the first."""
    return torch.zeros(len(x), dtype=torch.int64, device=x.device)
