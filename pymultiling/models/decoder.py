"""A Hugging Face decoder seen as layers of neurons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pymultiling.errors import UnsupportedModel
from pymultiling.models.families import FAMILIES, Family

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class Projection:
    """Some rows of a linear module: all of them, or its part of a fused projection."""

    module: nn.Module
    start: int
    stop: int

    def of(self, output: Tensor) -> Tensor:
        """This projection's part of the module's output."""
        return output[..., self.start : self.stop]

    @property
    def width(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Layer:
    """The modules of one decoder layer, and the sizes read off their weights.

    `gate` is what the activation is applied to; in a plain FFN, its only projection, and `up` is None.
    """

    attention: nn.Module
    q: Projection
    k: Projection
    v: Projection
    o: nn.Module
    q_norm: nn.Module | None
    k_norm: nn.Module | None
    attention_norm: nn.Module | None
    ffn: nn.Module
    gate: Projection
    up: Projection | None
    down: nn.Module
    ffn_norm: nn.Module | None
    head_size: int

    @property
    def heads(self) -> int:
        return self.q.width // self.head_size

    @property
    def kv_heads(self) -> int:
        return self.k.width // self.head_size

    def width(self, site: str) -> int:
        """How many neurons the layer has at a site."""
        return {"ffn": self.gate.width, "q": self.q.width, "k": self.k.width, "v": self.v.width, "o": self.q.width}[
            site
        ]


class Decoder:
    """Finds the neurons of a model; UnsupportedModel where they are not where its family has them."""

    def __init__(self, model: nn.Module):
        kind = getattr(getattr(model, "config", None), "model_type", None)
        if kind not in FAMILIES:
            raise UnsupportedModel(
                f"{type(model).__name__} (model_type {kind!r}) is of no known family: looked for one of "
                f"{', '.join(FAMILIES)}; a new family is a row in pymultiling/models/families.py"
            )
        self.model = model
        self.family = FAMILIES[kind]
        self.base = model.base_model
        self.layers = [
            self._layer(layer, index) for index, layer in enumerate(_find(self.base, self.family.layers, kind))
        ]
        for site in ("ffn", "q", "k"):
            if len({layer.width(site) for layer in self.layers}) != 1:
                raise UnsupportedModel(f"the layers of {type(model).__name__} differ in the width of {site}")

    def widths(self) -> dict[str, int]:
        """Neurons a layer, by site."""
        return {site: self.layers[0].width(site) for site in ("ffn", "q", "k", "v", "o")}

    def require_weights(self) -> None:
        """UnsupportedModel where weights are not in memory, but offloaded or on the "meta" device."""
        if any(parameter.is_meta for parameter in self.base.parameters()):
            raise UnsupportedModel("weights of the model are offloaded: load it whole, on one device or several")

    def multiplier(self, norm: nn.Module) -> Tensor:
        """What a norm multiplies by, as applied."""
        return norm.weight.detach() + self.family.norm_offset

    def _layer(self, layer: nn.Module, index: int) -> Layer:
        family, where = self.family, f"layer {index}"
        attention = _find(layer, family.attention, where)
        ffn = _find(layer, family.ffn, where)
        o, down = _linear(attention, family.o, where), _linear(ffn, family.down, where)
        if not getattr(attention, "is_causal", True):
            raise UnsupportedModel(f"the attention of {where} is not causal: a decoder was looked for")
        q, k, v = _attention_projections(attention, family, where, width=o.weight.shape[1])
        gate, up = _ffn_projections(ffn, family, where, width=down.weight.shape[1])
        return Layer(
            attention=attention,
            q=q,
            k=k,
            v=v,
            o=o,
            q_norm=family.q_norm and _find(attention, family.q_norm, where),
            k_norm=family.k_norm and _find(attention, family.k_norm, where),
            attention_norm=family.attention_norm and _find(layer, family.attention_norm, where),
            ffn=ffn,
            gate=gate,
            up=up,
            down=down,
            ffn_norm=family.ffn_norm and _find(layer, family.ffn_norm, where),
            head_size=attention.head_dim,
        )


def _attention_projections(attention: nn.Module, family: Family, where: str, width: int) -> list[Projection]:
    if family.qkv is None:
        return [_whole(_linear(attention, name, where)) for name in (family.q, family.k, family.v)]
    fused = _linear(attention, family.qkv, where)
    rows = fused.weight.shape[0]
    middle = (width + rows) // 2
    return [Projection(fused, 0, width), Projection(fused, width, middle), Projection(fused, middle, rows)]


def _ffn_projections(ffn: nn.Module, family: Family, where: str, width: int) -> tuple[Projection, Projection | None]:
    """Gate and up."""
    if family.gate_up is None:
        up = _whole(_linear(ffn, family.up, where))
        return (up, None) if family.gate is None else (_whole(_linear(ffn, family.gate, where)), up)
    fused = _linear(ffn, family.gate_up, where)
    return Projection(fused, 0, width), Projection(fused, width, 2 * width)


def _whole(linear: nn.Module) -> Projection:
    return Projection(linear, 0, linear.weight.shape[0])


def _linear(parent: nn.Module, path: str, where: str) -> nn.Module:
    module = _find(parent, path, where)
    if not isinstance(module, nn.Linear) or module.weight.dtype not in DTYPES:
        raise UnsupportedModel(
            f"{path} of {where} is no plain torch.nn.Linear in float32, float64, bfloat16 or float16: load the model "
            "without quantisation, and merge its adapters"
        )
    return module


def _find(parent: nn.Module, path: str, where: str):
    try:
        return parent.get_submodule(path)
    except AttributeError:
        raise UnsupportedModel(
            f"{where}: looked for {path} in {type(parent).__name__}, which has "
            f"{', '.join(name for name, _ in parent.named_children()) or 'no modules'}"
        ) from None


def model_device(model: nn.Module) -> torch.device:
    """Where the model takes its input."""
    return model.get_input_embeddings().weight.device


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode (no dropout)."""
    with modes_kept(model):
        model.eval()
        yield


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards every module is in training or evaluation mode as it was before."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            if module.training != training:  # setting an attribute of a module takes its time
                module.training = training
