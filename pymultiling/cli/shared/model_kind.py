"""What `doctor` says of a model's kind: how each site is measured, which sites layers lack, and what is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pymultiling.errors import UnsupportedModel
from pymultiling.models.decoder import Decoder
from pymultiling.models.linear import outputs_of
from pymultiling.models.pretrained import pretrained
from pymultiling.ops.arguments import KernelBackend
from pymultiling.ops.registry import OPERATORS
from pymultiling.probes.activation_counts import SIGN_PRESERVING_ACTIVATIONS
from pymultiling.probes.site_operators import site_operators

DOCUMENT_TOKENS = 512  # the length of the documents for which the cost of v is named
SERIES = "a series, cut at 2e-5 (1 + the largest score) on a CPU and at 1e-3 on a GPU"  # of whole_norm_importance
DEVICES: dict[KernelBackend, str] = {"cpp": "on a CPU", "triton": "on a GPU"}  # where a backend's kernels run


def measured_part(decoder: Decoder) -> str:
    """Returns which part of the model has the neurons; "" where it is the whole model."""
    if decoder.family.is_pair:
        return ", an encoder-decoder: its encoder is measured"
    if not decoder.family.causal:
        return ", an encoder"
    if decoder.config is not pretrained(decoder.model).config:
        return f": its text decoder {decoder.config.model_type} is measured"
    return ""


def sites(decoder: Decoder) -> dict[str, str]:
    """Returns {site: whether its importance is exact, by which operators, and where these fall back}."""
    rows = {}
    for site, operators in site_operators(decoder).items():
        parts = []
        for name, layers in operators.items():
            of_all = len(layers) == len(decoder.layers_of(site))
            where = "" if of_all else f" in layers {', '.join(map(str, layers))}"
            parts.append(f"{name}{where}{_fallback(name)}")
        how = SERIES if "whole_norm_importance" in operators else "exact"
        rows[site] = f"{how}: {' and '.join(parts)}" if parts else "no layer has such neurons"
    return rows


def _fallback(operator: str) -> str:
    """Returns where an operator has no kernel, as the end of a sentence about it."""
    lacking = [device for backend, device in DEVICES.items() if backend not in OPERATORS[operator].kernels]
    return f" ({' and '.join(lacking)} in plain PyTorch)" if lacking else ""


def remarks(decoder: Decoder) -> list[str]:
    """Returns sentences on sites that layers lack, on a site that takes long, and on what is refused."""
    return [*_absent_sites(decoder), *_slow_values(decoder), *_refusals(decoder)]


def _absent_sites(decoder: Decoder) -> Iterator[str]:
    if len(decoder.attention_layers) < len(decoder.layers):
        yield (
            f"{_layers_have(decoder.attention_layers)} attention. The others have linear attention in its place: they "
            "have neurons of ffn only, and results are zero there at q, k, v and o."
        )
    lacking: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for number, layer in decoder.attention_layers.items():
        for reason in dict.fromkeys(layer.absent.values()):
            absent = tuple(site for site in layer.absent if layer.absent[site] == reason)
            lacking.setdefault((reason, absent), []).append(number)
    for (reason, absent), layers in lacking.items():
        yield (
            f"{_layers_have(layers)} no neurons of {' and '.join(absent)}, and results are zero there: each is a layer "
            f"{reason}."
        )


def _layers_have(numbers: Collection[int]) -> str:
    joined = ", ".join(map(str, numbers))
    return f"Layers {joined} have" if len(numbers) > 1 else f"Layer {joined} has"


def _slow_values(decoder: Decoder) -> Iterator[str]:
    """Yields a sentence on the cost of site v where values pass a norm."""
    layers = [layer for layer in decoder.attention_layers.values() if layer.v is not None and layer.v_norm is not None]
    if layers:
        products = sum(layer.width("v") * outputs_of(layer.o) * (DOCUMENT_TOKENS + 1) / 2 for layer in layers)
        weights = sum(parameter.numel() for parameter in decoder.layer_modules().parameters())
        times = f"{products / weights:.2g} times the multiplications of the layers' weights in a forward"
        norm = f"Values pass a norm ({decoder.family.v_norm}), in which a neuron changes its whole head"
        yield (
            f"{norm}. The importance of v is exact, but slow: up to {times}, in documents of {DOCUMENT_TOKENS} tokens."
        )


def _refusals(decoder: Decoder) -> Iterator[str]:
    """Yields sentences on the functions that refuse this kind of model."""
    family = decoder.family
    if not family.causal:
        yield (
            "Refused: perplexity, ablation_matrix, tasks, mwork, lens and fine_tune, because tokens see those after "
            "them and so cannot be predicted."
        )
    if family.hidden_streams:
        yield "Refused: lens, sentence_embeddings and ilo, because layers pass on several hidden states of a token."
    try:
        if decoder.activation not in SIGN_PRESERVING_ACTIVATIONS:
            yield f"Refused: activations, because the sign of {decoder.activation} is not that of its input."
    except UnsupportedModel as unnamed:
        yield f"Refused: activations, because {unnamed}."
    if any(layer.experts is not None for layer in decoder.layers):
        yield "Refused: train_only on FFN neurons, because neurons of experts cannot be trained alone."
    if family.kv is not None:
        yield "Refused: models that are spread over processes (tp_plan), because heads share a part of their keys."
    elif any(len(set(widths)) > 1 for widths in decoder.layer_widths().values()):
        yield "Refused: models that are spread over processes (tp_plan), because layers differ in width."
