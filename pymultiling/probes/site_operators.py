"""Which operators compute the importance of each site of a model, with the default arguments of `importance`."""

from __future__ import annotations

from pymultiling.models.decoder import AttentionLayer, Decoder, Layer, is_over_all_heads
from pymultiling.neurons.sites import SITES


def site_operators(decoder: Decoder) -> dict[str, dict[str, list[int]]]:
    """Returns {site: {operator: numbers of the layers for which it is called}}.

    An operator that several sites share is named at each. Sums without an operator, such as norms of weights, are left
    out, and so is gated_ffn, which takes the place of column_energy in some layers on a GPU.
    """
    operators: dict[str, dict[str, list[int]]] = {site: {} for site in SITES}
    for site, by_operator in operators.items():
        for number in decoder.layers_of(site):
            for name in _operators_of_layer(decoder, decoder.layers[number], site):
                by_operator.setdefault(name, []).append(number)
    return operators


def _operators_of_layer(decoder: Decoder, layer: Layer, site: str) -> list[str]:
    if site == "ffn":
        return ["column_energy" if layer.ffn_norm is None else "normed_energy"]
    assert isinstance(layer, AttentionLayer), "only these have the other sites"
    if site == "o":
        return ["column_energy" if layer.attention_norm is None else "normed_energy"]
    if site == "v":
        if layer.v_norm is not None:
            return ["normed_value_energy"]
        return ["value_energy" if layer.attention_norm is None else "normed_energy"]
    if layer.q_norm is not None and decoder.family.centred_norms:
        return ["centred_importance"]
    if layer.q_norm is not None and is_over_all_heads(layer.q_norm, layer.head_size):
        return ["qk_importance", "whole_norm_importance"]
    return ["qk_importance"]
