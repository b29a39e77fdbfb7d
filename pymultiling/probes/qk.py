"""Importance of the query and key neurons of a layer, computed from the inputs of its attention scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from pymultiling.mathematics.sums import upcast
from pymultiling.models.decoder import AttentionLayer, Decoder, is_over_all_heads
from pymultiling.models.norms import centred_epsilon, centred_weight, normed, normed_behind_rotation, split_heads
from pymultiling.ops import centred_importance, qk_importance, whole_norm_importance
from pymultiling.ops.arguments import Mode
from pymultiling.probes.chunks import split_chunks
from pymultiling.probes.scores import ScoreInputs, with_bias, without_bias

Rope: TypeAlias = Literal["pre", "post"]
ImportanceScore: TypeAlias = Literal["importance", "released"]


def importance_from_scores(
    inputs: ScoreInputs,
    decoder: Decoder,
    layer: AttentionLayer,
    valid: Tensor,
    counted: Tensor | None,
    rope: Rope,
    score: ImportanceScore,
    mode: Mode,
) -> list[Tensor]:
    """Returns the importance of the query and the key neurons; that of key neurons is 0 in a layer without k.

    Args:
        inputs: the inputs of the attention scores.
        decoder: the model.
        layer: the layer of these attention scores.
        valid: (B, l) bool, False for padding.
        counted: (B, l) bool, the tokens whose queries count; None: those of all valid tokens.
        rope: as in `importance`.
        score: as in `importance`.
        mode: as in `qk_importance`.

    Returns:
        (B, H d) for q and (B, K d) for k, with the letters of `ScoreInputs`. In multi-head latent attention k has the
        neurons of each head, and then those that all heads share: (B, H o + s), with the letters of `LatentHeads`.
    """
    q, k = _importance_of_heads(inputs, decoder, layer, valid, counted, rope, score, mode)
    return [q, k] if layer.latent is None else [layer.latent.query_neurons(q), layer.latent.key_neurons(k)]


def _importance_of_heads(
    inputs: ScoreInputs,
    decoder: Decoder,
    layer: AttentionLayer,
    valid: Tensor,
    counted: Tensor | None,
    rope: Rope,
    score: ImportanceScore,
    mode: Mode,
) -> list[Tensor]:
    """Returns (B, H d) for q and (B, K d) for k, in the order of the heads in `inputs`."""
    if counted is not None:
        inputs = _only_queries(inputs, counted)
    if inputs.chunk is not None and inputs.chunk < valid.shape[1]:
        chunks, valid_in_chunks = split_chunks(inputs, valid, inputs.chunk)
        importance = _importance_of_heads(chunks, decoder, layer, valid_in_chunks, None, rope, score, mode)
        return [x.view(len(valid), -1, x.shape[-1]).sum(1) for x in importance]
    family = decoder.family
    is_pre = rope == "pre" and score == "importance"
    if is_pre and family.centred_norms and layer.q_norm is not None and layer.k_norm is not None:
        return list(_centred(inputs, layer.q_norm, layer.k_norm, valid, family.interleaved))
    if is_pre and family.norms_behind_rotation and inputs.rotation and layer.q_norm and layer.k_norm:
        return _behind_rotation(inputs, inputs.rotation, (layer.q_norm, layer.k_norm), decoder, layer, valid, mode)
    query, key = (inputs.query, inputs.key) if inputs.bias is None else with_bias(inputs, inputs.bias)
    cos = sin = q_plain = k_plain = q_growth = k_growth = None
    if score == "released":
        scale = inputs.scale * (layer.head_size**-0.5 if family.scaled_queries else 1)
        q_plain, k_plain = upcast(query) / scale, upcast(key) / scale
    elif is_pre and (inputs.rotation is not None or layer.q_norm is not None):
        cos, sin = inputs.rotation or (None, None)
        q_plain, q_growth = _before_rotation(inputs.q, decoder, layer, layer.q_norm)
        if inputs.query_factors is not None:
            q_plain = q_plain * inputs.query_factors[:, None, :, None].to(q_plain.dtype)
        if inputs.k is None:  # of keys of zero no neuron changes the scores
            k_plain = torch.zeros_like(inputs.key, dtype=q_plain.dtype)
            k_growth = None if q_growth is None else torch.zeros_like(k_plain)
        else:
            k_plain, k_growth = _before_rotation(inputs.k, decoder, layer, layer.k_norm)
    q_importance, k_importance, *_ = qk_importance(
        query,
        key,
        q_plain,
        k_plain,
        cos,
        sin,
        valid,
        q_growth,
        k_growth,
        scale=inputs.scale,
        window=inputs.window,
        softcap=inputs.softcap,
        interleaved=family.interleaved,
        sinks=inputs.sinks,
        causal=inputs.causal,
        bias=inputs.position_bias,
        mode=mode,
    )
    if inputs.bias is not None:
        q_importance, k_importance = without_bias(inputs, q_importance, k_importance)
    # A norm over all heads also rescales the other heads when a neuron is zero.
    is_over_all = layer.q_norm is not None and is_over_all_heads(layer.q_norm, layer.head_size)
    if q_growth is not None and k_growth is not None and is_over_all:
        q_importance, k_importance = whole_norm_importance(
            query,
            key,
            q_growth.transpose(1, 2).flatten(2),
            k_growth.transpose(1, 2).flatten(2),
            valid,
            scale=inputs.scale,
            window=inputs.window,
            softcap=inputs.softcap,
            q_own=q_importance,
            k_own=k_importance,
        )
    return [q_importance, k_importance]


def _only_queries(inputs: ScoreInputs, counted: Tensor) -> ScoreInputs:
    """Sets the queries of all other tokens to zero, so that no neuron changes their attention and their rows add 0.

    A query neuron of a query of zero contributes nothing to its scores, and a key neuron changes them by a product with
    the query. The keys of these tokens stay, since the other queries see them.
    """
    return replace(
        inputs,
        query=inputs.query.masked_fill(~counted[:, None, :, None], 0),
        q=inputs.q.masked_fill(~counted[:, :, None], 0),
    )


def _centred(
    inputs: ScoreInputs, q_norm: nn.Module, k_norm: nn.Module, valid: Tensor, interleaved: bool
) -> tuple[Tensor, Tensor]:
    """Returns the importance of q (B, H d) and k (B, K d) if queries and keys pass LayerNorms over the head."""
    cos, sin = inputs.rotation or (None, None)
    assert inputs.k is not None, "families with LayerNorms over heads share no keys"
    return centred_importance(
        inputs.query,
        inputs.key,
        inputs.q,
        inputs.k,
        centred_weight(q_norm),
        centred_weight(k_norm),
        cos,
        sin,
        valid,
        q_eps=centred_epsilon(q_norm),
        k_eps=centred_epsilon(k_norm),
        scale=inputs.scale,
        window=inputs.window,
        softcap=inputs.softcap,
        interleaved=interleaved,
    )


def _behind_rotation(
    inputs: ScoreInputs,
    rotation: tuple[Tensor, Tensor],
    norms: tuple[nn.Module, nn.Module],
    decoder: Decoder,
    layer: AttentionLayer,
    valid: Tensor,
    mode: Mode,
) -> list[Tensor]:
    """Returns the importance of q (B, H d) and k (B, K d) if queries and keys are normed behind the rotation.

    The query is g a, with the multiplier g of its norm, and the key is h b. A query neuron changes a alone, whose
    products with g h b are the scores; a key neuron changes b alone, whose products with h g a are the scores.
    qk_importance is called for each, and of its two results one is used.
    """
    assert inputs.k is not None, "families with norms behind the rotation share no keys"
    q, k = (
        normed_behind_rotation(raw, norm, decoder.head_multiplier(norm, layer), rotation, decoder.family.interleaved)
        for raw, norm in zip((inputs.q, inputs.k), norms)
    )
    pairs = (q.rotated, q.multiplier * inputs.key), (k.multiplier * inputs.query, k.rotated)
    return [
        qk_importance(
            query.to(q.plain.dtype),
            key.to(q.plain.dtype),
            q.plain,
            k.plain,
            *q.rotation,
            valid,
            q.growth,
            k.growth,
            scale=inputs.scale,
            window=inputs.window,
            softcap=inputs.softcap,
            interleaved=decoder.family.interleaved,
            sinks=inputs.sinks,
            mode=mode,
        )[site]
        for site, (query, key) in enumerate(pairs)
    ]


def _before_rotation(
    raw: Tensor, decoder: Decoder, layer: AttentionLayer, norm: nn.Module | None
) -> tuple[Tensor, Tensor | None]:
    """Returns the heads (B, heads, l, d) before the rotation, and their growth under a norm, or None without one.

    raw: (B, l, heads d), the output of the projection.
    """
    if norm is None:
        return split_heads(raw, layer.head_size), None
    return normed(raw, norm, decoder.head_multiplier(norm, layer), layer.head_size)
