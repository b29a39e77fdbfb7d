"""Seeing what a layer's attention makes its scores of, whether or not it uses transformers' attention interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pymultiling.errors import UnsupportedModel
from pymultiling.mathematics.rotation import repeat_for_pairs, rotate
from pymultiling.models.decoder import Decoder, Layer
from pymultiling.models.linear import Projection
from pymultiling.probes.hooks import Hooks


@dataclass(frozen=True, eq=False)
class Scores:
    """scale (query key' + factor bias), soft-capped, of the keys that a query sees.

    Attributes:
        query, key: (B, H, l, d) and (B, K, l, d), as they are multiplied.
        q, k: (B, l, H d) and (B, l, K d), as they were projected.
        rotation: cos and sin, (B or 1, l, r); None: the layer does not rotate.
        scale: factor of the scores.
        factor, bias: bias (B, H, l) of every key; None: there is none.
        window, softcap: as in `qk_importance`.
    """

    query: Tensor
    key: Tensor
    q: Tensor
    k: Tensor
    rotation: tuple[Tensor, Tensor] | None
    scale: float
    factor: float = 1.0
    bias: Tensor | None = None
    window: int | None = None
    softcap: float | None = None


def watch_scores(
    decoder: Decoder, hooks: Hooks, layer: Layer, see: Callable[[Scores], None]
) -> Callable[[Tensor, Tensor, dict], None] | None:
    """Calls see(scores) in every forward of a layer; what it returns, if anything, must listen to the attention."""
    family, caught, usual_scale = decoder.family, {}, layer.head_size**-0.5

    def catch_keywords(_, args, kwargs) -> None:
        caught["keywords"] = kwargs

    def projected() -> tuple[Tensor, Tensor]:
        both = caught.pop("q"), caught.pop("k")
        # The model clips them in place, so maybe they are clipped already.
        return both if family.clip is None else tuple(one.clamp(-family.clip, family.clip) for one in both)

    def listen(query: Tensor, key: Tensor, arguments: dict) -> None:
        rotation = _rotation(decoder, layer, caught.pop("keywords"))
        scale = arguments.get("scaling")  # GPT-2's attention names none in transformers before 5.3
        limits = {"window": arguments.get("sliding_window"), "softcap": arguments.get("softcap")}
        see(Scores(query, key, *projected(), rotation, usual_scale if scale is None else scale, **limits))

    def make(*_) -> None:
        keywords = caught.pop("keywords")
        rotation, (q, k) = _rotation(decoder, layer, keywords), projected()
        query, key = (one.unflatten(-1, (-1, layer.head_size)).transpose(1, 2) for one in (q, k))
        if rotation is not None:
            query, key = (rotate(one, *rotation, family.interleaved) for one in (query, key))
        biases = {}
        if family.alibi is not None:
            biases["bias"] = _keyword(keywords, "alibi").reshape(*query.shape[:2], -1)
            biases["factor"] = 1.0 if family.alibi == "scaled" else 1 / usual_scale
        see(Scores(query, key, q, k, rotation, usual_scale, **biases))

    hooks.before(layer.attention, catch_keywords, with_kwargs=True)
    for site, projection in (("q", layer.q), ("k", layer.k)):
        hooks.after(projection.module, _catcher(caught, site, projection))
    if family.interface:
        return listen
    hooks.after(layer.attention, make)
    return None


def with_bias(scores: Scores) -> tuple[Tensor, Tensor]:
    """Query and key with more dimensions, which no neuron has, whose product is factor * bias.

    Queries get the factor, in parts that their dtype holds exactly and that add up to it to float32's precision; keys the
    bias, once for each query head.
    """
    parts, rest = [], scores.factor
    while abs(rest) > 2**-25 * abs(scores.factor):
        step = torch.finfo(scores.query.dtype).eps * 2.0 ** math.floor(math.log2(abs(rest)))
        parts.append(round(rest / step) * step)
        rest -= parts[-1]
    shape = (*scores.query.shape[:-1], len(parts))
    query = torch.cat([scores.query, scores.query.new_tensor(parts).expand(shape)], -1)
    keys = scores.key.repeat_interleave(shape[1] // scores.key.shape[1], 1)
    return query, torch.cat([keys, scores.bias.to(keys.dtype)[..., None].expand(shape)], -1)


def without_bias(scores: Scores, found: Sequence[Tensor]) -> list[Tensor]:
    """What qk_importance makes of `with_bias`, for the neurons alone: (B, H d) and (B, K d), then the same of errors."""
    size, kv_heads = scores.query.shape[-1], scores.key.shape[1]
    q, k, *errors = (one.unflatten(1, (scores.query.shape[1], -1))[..., :size] for one in found)
    k = k.unflatten(1, (kv_heads, -1)).sum(2)
    if errors:
        errors[1] = errors[1].unflatten(1, (kv_heads, -1)).square().sum(2).sqrt()
    return [one.flatten(1) for one in (q, k, *errors)]


def _rotation(decoder: Decoder, layer: Layer, keywords: dict) -> tuple[Tensor, Tensor] | None:
    if not layer.rotates:
        return None
    cos, sin = _keyword(keywords, decoder.family.rotation)
    return (repeat_for_pairs(cos), repeat_for_pairs(sin)) if decoder.family.half_tables else (cos, sin)


def _keyword(keywords: dict, name: str):
    if keywords.get(name) is None:
        raise UnsupportedModel(
            f"the attention was called without {name}: looked for it among {', '.join(keywords) or 'no keywords'}; the family's "
            "`rotation` or `alibi` says what it is called, and models that compute it inside the attention cannot be measured"
        )
    return keywords[name]


def _catcher(caught: dict, site: str, projection: Projection) -> Callable:
    def catch(module: nn.Module, args: tuple, output: Tensor) -> None:
        caught[site] = projection.of(output)

    return catch
