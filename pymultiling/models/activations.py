"""The activation functions of FFNs, also those with parameters of their own (xIELU, in Apertus)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor
from torch.func import functional_call
from transformers.activations import ACT2FN

from pymultiling.mathematics.sums import upcast
from pymultiling.models.decoder import Decoder, Layer
from pymultiling.models.find_modules import find


def activation_function(decoder: Decoder, layer: Layer) -> Callable[[Tensor], Tensor]:
    """Returns transformers' activation of a layer's FFN, with the layer's parameters of it if it has any.

    The function takes tensors in float32 or float64.

    Raises:
        UnsupportedModel: the activation is not named, or the FFN lacks the module of its parameters.
    """
    function = ACT2FN[decoder.activation]
    path = decoder.family.activation_parameters
    if path is None:
        return cast("Callable[[Tensor], Tensor]", function)
    state = find(layer.ffn, path, "the FFN").state_dict()
    parameters = {name: upcast(value) for name, value in state.items()}

    def with_parameters(x: Tensor) -> Tensor:
        output: Tensor = functional_call(function, parameters, (x,))
        return output

    return with_parameters
