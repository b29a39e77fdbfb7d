"""Importance of the query and key neurons of a layer, from what its attention makes its scores of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pymultiling.mathematics.sums import upcast
from pymultiling.models.decoder import Decoder, Layer
from pymultiling.models.norms import centred_epsilon, centred_weight, normed
from pymultiling.ops import centred_importance, qk_importance, whole_norm_importance
from pymultiling.probes.scores import Scores, with_bias, without_bias


def of_scores(
    scores: Scores, decoder: Decoder, layer: Layer, valid: Tensor, rope: str, score: str, mode: str
) -> list[Tensor]:
    """(B, H d) and (B, K d), and with mode "fast" their standard errors; valid (B, l) bool, the rest as in `importance`."""
    family = decoder.family
    pre = rope == "pre" and score == "importance"
    if pre and family.centred_norms and layer.q_norm is not None:
        exact = _centred(scores, layer, valid, family.interleaved)
        return [*exact, *(map(torch.zeros_like, exact) if mode == "fast" else ())]
    query, key = (scores.query, scores.key) if scores.bias is None else with_bias(scores)
    cos = sin = q_plain = k_plain = q_gain = k_gain = None
    if score == "released":
        scale = scores.scale * (layer.head_size**-0.5 if family.scaled_queries else 1)
        q_plain, k_plain = upcast(query) / scale, upcast(key) / scale
    elif pre and (scores.rotation is not None or layer.q_norm is not None):
        cos, sin = scores.rotation or (None, None)
        q_plain, q_gain = _plain(scores.q, decoder, layer, layer.q_norm)
        k_plain, k_gain = _plain(scores.k, decoder, layer, layer.k_norm)
    found = qk_importance(
        query,
        key,
        q_plain,
        k_plain,
        cos,
        sin,
        valid,
        *(None if gain is None else gain.to(q_plain.dtype) for gain in (q_gain, k_gain)),
        scale=scores.scale,
        window=scores.window,
        softcap=scores.softcap,
        interleaved=family.interleaved,
        mode=mode,
    )
    found = list(found) if scores.bias is None else without_bias(scores, found)
    if q_gain is not None and layer.q_norm.weight.shape[-1] > layer.head_size:  # it moves the other heads too
        rescale = ((gain - 1).transpose(1, 2).flatten(2) for gain in (q_gain, k_gain))
        limits = {"scale": scores.scale, "window": scores.window, "softcap": scores.softcap}
        others = whole_norm_importance(query, key, *rescale, valid, **limits)
        found[:2] = (own + of_others for own, of_others in zip(found, others))
    return found


def _centred(scores: Scores, layer: Layer, valid: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    """Under LayerNorms over the head."""
    cos, sin = scores.rotation or (None, None)
    return centred_importance(
        scores.query,
        scores.key,
        scores.q,
        scores.k,
        centred_weight(layer.q_norm),
        centred_weight(layer.k_norm),
        cos,
        sin,
        valid,
        q_eps=centred_epsilon(layer.q_norm),
        k_eps=centred_epsilon(layer.k_norm),
        scale=scores.scale,
        window=scores.window,
        softcap=scores.softcap,
        interleaved=interleaved,
    )


def _plain(raw: Tensor, decoder: Decoder, layer: Layer, norm: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    """(B, l, heads d) as projected -> (B, heads, l, d) as it enters the rotation, and its gain in float64."""
    if norm is None:
        return raw.unflatten(-1, (-1, layer.head_size)).transpose(1, 2), None
    plain, gain = normed(raw, norm, decoder.multiplier(norm), layer.head_size)
    return plain.to(upcast(raw).dtype), gain
