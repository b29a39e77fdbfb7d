"""The activation functions of FFNs, also those with parameters of their own (xIELU, in Apertus)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.func import functional_call
from transformers.activations import ACT2FN

from pymultiling.mathematics.sums import upcast
from pymultiling.models.decoder import Decoder, Layer
from pymultiling.models.find_modules import find


def sparse_gate(gate: Tensor, sparsity: float) -> Tensor:
    """Returns what `Family.gate_sparsity` makes of a gate, (.., neurons), in its dtype as transformers computes it."""
    normal = torch.distributions.Normal(0, 1)
    quantile: Tensor = normal.icdf(torch.tensor(sparsity))  # type: ignore[no-untyped-call]
    spread = gate.std(-1, keepdim=True, unbiased=False) * quantile.to(gate.dtype)
    return torch.relu(gate - (gate.mean(-1, keepdim=True) + spread))


def activation_function(decoder: Decoder, layer: Layer) -> Callable[[Tensor], Tensor]:
    """Returns transformers' activation of a layer's FFN, with the layer's parameters of it if it has any.

    The function takes tensors in float32 or float64. Where the family has `gate_sparsity`, it takes the gate before
    that.

    Raises:
        UnsupportedModel: the activation is not named, or the FFN lacks the module of its parameters.
    """
    function = ACT2FN[decoder.activation]
    sparsity = 0.0 if layer.dense is None else layer.dense.gate_sparsity
    if sparsity > 0:
        return lambda gate: function(sparse_gate(gate, sparsity))
    path = decoder.family.activation_parameters
    if path is None:
        return cast("Callable[[Tensor], Tensor]", function)
    state = find(layer.ffn, path, "the FFN").state_dict()
    parameters = {name: upcast(value) for name, value in state.items()}

    def with_parameters(x: Tensor) -> Tensor:
        output: Tensor = functional_call(function, parameters, (x,))
        return output

    return with_parameters
