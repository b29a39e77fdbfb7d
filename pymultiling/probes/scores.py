"""Captures the inputs of a layer's attention scores, with and without transformers' attention interface."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pymultiling.errors import UnsupportedModel
from pymultiling.mathematics.rotation import repeat_for_pairs, rotate
from pymultiling.models.attention import AttentionListener
from pymultiling.models.decoder import AttentionLayer, Decoder
from pymultiling.models.linear import Projection
from pymultiling.models.norms import split_heads
from pymultiling.models.pretrained import tensor_attribute
from pymultiling.models.query_scaling import position_factors
from pymultiling.probes.hooks import Hooks, OutputHook

SHARED_K = "shared k"  # the name of a projection, beside "q" and "k"


@dataclass(frozen=True, eq=False)
class ScoreInputs:
    """The inputs of the attention scores of a layer.

        score[i, j] = scale (query[i] . key[j] + factor bias[j]), then soft-capped if `softcap` is given
        A[i, j] = exp(score[i, j]) / (sum_j' exp(score[i, j']) + exp(sink)), the last term with `sinks` only

    B: documents, l: their length, H: query heads, K: key heads, d: size of a head, r: rotated dimensions of a head.
    In multi-head latent attention K = H, and the dimensions of heads are in operators' order (see `LatentHeads`).

    Attributes:
        query: (B, H, l, d), as it is multiplied by the keys: after the rotation, norms and `query_factors`.
        key: (B, K, l, d), as it is multiplied by the queries: after the rotation and norms.
        q: (B, l, H d), the output of the query projection.
        k: (B, l, K d), the output of the key projection; None in a layer that takes the keys of another one.
        rotation: cosines and sines, (B or 1, l, r) each; None: the layer does not rotate.
        scale: the factor of the attention scores.
        factor: the factor of the bias.
        bias: (B, H, l), a bias for every key; None: there are no biases.
        window: as in `qk_importance`.
        softcap: as in `qk_importance`.
        query_factors: (B or 1, l), the factor of the queries of each token; None: queries are not scaled by position.
        sinks: as in `qk_importance`.
        chunk: a query sees the keys of its own chunk of this many tokens of the document only; None: of all chunks.
        causal: as in `qk_importance`.
        position_bias: (B or 1, H, l, l), added to the scores; None: nothing is added.
        value: (B, K, l, d), the values; None where the family has no attention interface.
        v: (B, l, K d), the output of the value projection, where its values pass a norm; None elsewhere.
    """

    query: Tensor
    key: Tensor
    q: Tensor
    k: Tensor | None
    rotation: tuple[Tensor, Tensor] | None
    scale: float
    factor: float = 1.0
    bias: Tensor | None = None
    window: int | None = None
    softcap: float | None = None
    query_factors: Tensor | None = None
    sinks: Tensor | None = None
    chunk: int | None = None
    causal: bool = True
    position_bias: Tensor | None = None
    value: Tensor | None = None
    v: Tensor | None = None


@dataclass(eq=False)
class _Captured:
    """What hooks have captured of a layer in the current forward: the attention's keywords, and projections by name."""

    keywords: dict[str, Any] = field(default_factory=dict)
    projected: dict[str, Tensor] = field(default_factory=dict)

    def take_keywords(self) -> dict[str, Any]:
        """Returns the keywords and forgets them."""
        keywords, self.keywords = self.keywords, {}
        return keywords

    def take_projected(self, layer: AttentionLayer, clip: float | None) -> tuple[Tensor, Tensor | None]:
        """Returns the outputs of the query and key projections, clipped, and forgets them. A layer may have no k.

        Raises:
            UnsupportedModel: a projection was not called.
        """
        for name in ("q", "k") if layer.shared_k is None else ("q", "k", SHARED_K):
            if name != "k" or layer.k is not None:
                self._require(name, "the sites q and k")
        q, k = self.projected.pop("q"), self.projected.pop("k", None)
        if layer.latent is not None and k is not None:
            q, k = layer.latent.queries(q), layer.latent.keys(k, self.projected.pop(SHARED_K))
        if clip is None or k is None:
            return q, k
        return q.clamp(-clip, clip), k.clamp(-clip, clip)  # models that clip in place may have done so already

    def take_values(self, layer: AttentionLayer) -> Tensor | None:
        """Returns the output of the value projection, where its values pass a norm, and forgets it.

        Raises:
            UnsupportedModel: the projection was not called.
        """
        if layer.v is None or layer.v_norm is None:
            return None
        self._require("v", "the site v")
        return self.projected.pop("v")

    def _require(self, name: str, sites: str) -> None:
        if name not in self.projected:
            raise UnsupportedModel(
                f"the attention does not call its projection of {name}, but computes with its weight elsewhere: "
                f"use the forward of transformers, or leave {sites} out"
            )


def watch_scores(
    decoder: Decoder, hooks: Hooks, layer: AttentionLayer, on_scores: Callable[[ScoreInputs], None]
) -> AttentionListener | None:
    """Adds hooks that call on_scores(inputs) in every forward of a layer.

    Returns:
        A listener to register with `listen_to_attention`, or None where the hooks are enough.
    """
    family, captured, usual_scale = decoder.family, _Captured(), layer.head_size**-0.5
    own_scale = usual_scale if family.score_scale is None else family.score_scale

    def capture_keywords(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        captured.keywords = kwargs

    def listen(query: Tensor, key: Tensor, value: Tensor, arguments: dict[str, Any]) -> None:
        keywords = captured.take_keywords()
        rotation = _rotation(decoder, layer, keywords)
        q, k = captured.take_projected(layer, family.clip)
        if layer.latent is not None:
            query, key = layer.latent.passed(query), layer.latent.passed(key)
        scale = arguments.get("scaling")  # GPT-2's attention passes no scale in transformers before 5.3
        inputs = ScoreInputs(
            query,
            key,
            q,
            k,
            rotation,
            usual_scale if scale is None else scale,
            window=arguments.get("sliding_window"),
            softcap=arguments.get("softcap"),
            query_factors=_query_factors(decoder, layer, keywords, query),
            sinks=decoder.sinks(layer),
            chunk=layer.chunk,
            causal=family.causal,
            position_bias=None if family.position_bias is None else _keyword(arguments, family.position_bias),
            value=value,
            v=captured.take_values(layer),
        )
        on_scores(inputs)

    def compute_scores(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        keywords = captured.take_keywords()
        rotation = _rotation(decoder, layer, keywords)
        q, k = captured.take_projected(layer, family.clip)
        assert k is not None, "families without transformers' interface share no keys"
        query, key = split_heads(q, layer.head_size), split_heads(k, layer.head_size)
        if rotation is not None:
            query, key = rotate(query, *rotation, family.interleaved), rotate(key, *rotation, family.interleaved)
        bias, factor = None, 1.0
        if family.alibi is not None:
            bias = _keyword(keywords, family.alibi_keyword)[..., -query.shape[2] :]
            bias = bias.reshape(-1, layer.heads, query.shape[2]).expand(len(query), -1, -1)
            factor = 1.0 if family.alibi == "scaled" else 1 / own_scale
        window = layer.local_window
        on_scores(ScoreInputs(query, key, q, k, rotation, own_scale, factor, bias, window, causal=family.causal))

    hooks.before_with_keywords(layer.attention, capture_keywords)
    hooks.after(layer.q.module, _capture_projected(captured, "q", layer.q))
    if layer.k is not None:
        hooks.after(layer.k.module, _capture_projected(captured, "k", layer.k))
    if layer.v is not None and layer.v_norm is not None:
        hooks.after(layer.v.module, _capture_projected(captured, "v", layer.v))
    if layer.shared_k is not None:
        hooks.after(layer.shared_k.module, _capture_projected(captured, SHARED_K, layer.shared_k))
    if family.interface:
        return listen
    hooks.after(layer.attention, compute_scores)
    return None


def with_bias(inputs: ScoreInputs, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Adds P dimensions to query and key whose product is factor * bias. They are no neurons.

    The query gets the factor, split into P parts that its dtype represents exactly and whose sum is the factor to
    float32's precision. The key is repeated for each query head, since heads have different biases, and gets the bias
    in each of the P dimensions.

    Args:
        inputs: the inputs of the attention scores.
        bias: (B, H, l), `inputs.bias`, which must not be None here.

    Returns:
        The query and the key, (B, H, l, d + P) each.
    """
    parts: list[float] = []
    rest = inputs.factor
    while abs(rest) > 2**-25 * abs(inputs.factor):
        step = torch.finfo(inputs.query.dtype).eps * 2.0 ** math.floor(math.log2(abs(rest)))
        parts.append(round(rest / step) * step)
        rest -= parts[-1]
    shape = inputs.query.shape[:-1]
    # A tensor of the parts would be copied from the host, which waits for a GPU.
    query = torch.cat([inputs.query, *(inputs.query.new_full((*shape, 1), part) for part in parts)], -1)
    keys = inputs.key.repeat_interleave(shape[1] // inputs.key.shape[1], 1)
    return query, torch.cat([keys, bias.to(keys.dtype)[..., None].expand(*shape, len(parts))], -1)


def without_bias(inputs: ScoreInputs, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Removes the additional dimensions of `with_bias` from the results of qk_importance.

    Args:
        inputs: the inputs of the attention scores.
        q: importance of the query neurons of `with_bias`.
        k: importance of the key neurons of `with_bias`, which has a key head for each query head.

    Returns:
        (B, H d) for q and (B, K d) for k.
    """
    query_heads, head_size = inputs.query.shape[1], inputs.query.shape[-1]
    q, k = (torch.unflatten(x, 1, (query_heads, -1))[..., :head_size] for x in (q, k))
    k = torch.unflatten(k, 1, (inputs.key.shape[1], -1)).sum(2)
    return q.flatten(1), k.flatten(1)


def _rotation(decoder: Decoder, layer: AttentionLayer, keywords: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    """Returns cosines and sines from the attention's keywords, or None if the layer does not rotate."""
    name = decoder.family.rotation
    if name is None or not layer.rotates or (name in keywords and keywords[name] is None):
        return None
    tables = _keyword(keywords, name)
    if decoder.family.rotation_table is not None:
        rows = tensor_attribute(layer.attention, decoder.family.rotation_table).to(tables.device)[tables]
        sin, cos = rows.repeat_interleave(2, -1).chunk(2, -1)
        return cos, sin
    if decoder.family.complex_tables:
        return tables.real.repeat_interleave(2, -1), tables.imag.repeat_interleave(2, -1)
    cos, sin = tables
    if decoder.family.backwards:
        sin = -sin
    if decoder.family.single_tables:
        return torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)
    return (repeat_for_pairs(cos), repeat_for_pairs(sin)) if decoder.family.half_tables else (cos, sin)


def _query_factors(decoder: Decoder, layer: AttentionLayer, keywords: dict[str, Any], query: Tensor) -> Tensor | None:
    """Returns (B or 1, l), the factors of the queries; None where the layer does not scale them by position.

    query: (B, H, l, d).

    Raises:
        UnsupportedModel: the attention gets no positions, or counts padding as positions.
    """
    if decoder.family.query_scaling is None:
        return None
    if decoder.family.query_scaling_unrotated:
        if layer.rotates:
            return None
        places = torch.arange(1, query.shape[2] + 1, device=query.device)
        return position_factors(places, *decoder.family.query_scaling)[None]
    if keywords.get("cache_position") is not None:
        raise UnsupportedModel(
            "this version of transformers scales queries by their place in the batch, which counts padding: update "
            "transformers, or leave the sites q and k out"
        )
    return position_factors(_keyword(keywords, "position_ids"), *decoder.family.query_scaling)


def _keyword(keywords: dict[str, Any], name: str) -> Any:
    """Returns a keyword of the attention. Raises UnsupportedModel if it was called without the keyword."""
    if keywords.get(name) is None:
        raise UnsupportedModel(
            f"the attention was called without {name}: looked for it among {', '.join(keywords) or 'no keywords'}; "
            "set the family's `rotation` or `alibi` to the name of the keyword. Models that compute it inside the "
            "attention cannot be measured"
        )
    return keywords[name]


def _capture_projected(captured: _Captured, name: str, projection: Projection) -> OutputHook:
    def capture(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        x = projection.select(output)
        captured.projected[name] = x.flatten(1, -2) if x.ndim > 3 else x  # a latent vector may come as one head

    return capture
