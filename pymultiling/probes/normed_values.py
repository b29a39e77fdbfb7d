"""Importance of the value neurons of a layer whose values pass a norm, from the inputs of its attention scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pymultiling.models.decoder import AttentionLayer, Decoder
from pymultiling.models.norms import epsilon, normed
from pymultiling.models.tensor_parallel import local_weight
from pymultiling.ops import normed_value_energy
from pymultiling.probes.scores import ScoreInputs
from pymultiling.probes.switched_off import input_factors


def value_importance(
    inputs: ScoreInputs,
    output: Tensor | None,
    decoder: Decoder,
    layer: AttentionLayer,
    valid: Tensor,
    counted: Tensor | None,
) -> Tensor:
    """Returns the importance of the value neurons, (B, K d) with the letters of `ScoreInputs`.

    Args:
        inputs: the inputs of the attention scores.
        output: (B, l, D), the input of the norm behind the attention; None where the layer has no such norm.
        decoder: the model.
        layer: the layer, whose values pass a norm.
        valid: (B, l) bool, False for padding.
        counted: (B, l) bool, the tokens over which importance is summed; None: all valid tokens.
    """
    assert inputs.v is not None and layer.v_norm is not None, "called where values pass a norm"
    ones = torch.ones(layer.value_size, device=inputs.v.device)
    v, growth = normed(inputs.v, layer.v_norm, ones, layer.value_size)
    norm: nn.Module | None = layer.attention_norm
    inputs_of_o = inputs.query.shape[1] * layer.value_size
    return normed_value_energy(
        inputs.query,
        inputs.key,
        v,
        growth,
        local_weight(layer.o, inputs_of_o),
        valid,
        counted,
        input_factors(layer.o, inputs.query.new_empty(len(inputs.query), 1, inputs_of_o)),
        output,
        None if norm is None else decoder.multiplier(norm),
        eps=0.0 if norm is None else epsilon(norm),
        scale=inputs.scale,
        window=inputs.window,
        softcap=inputs.softcap,
        causal=inputs.causal,
    )
