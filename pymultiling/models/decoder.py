"""A Hugging Face decoder seen as layers of neurons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pymultiling.errors import UnsupportedModel
from pymultiling.models.experts import Experts
from pymultiling.models.families import family_of
from pymultiling.models.family import activation_name
from pymultiling.models.find_modules import attention_projections, ffn_experts, ffn_projections, find, find_linear
from pymultiling.models.linear import Projection, weight_of
from pymultiling.models.spread import tensor_parallel_of, whole


@dataclass(frozen=True, eq=False)
class Layer:
    """The modules of one decoder layer, and the sizes read off their weights.

    `gate` is what the activation is applied to; in a plain FFN, its only projection, and `up` is None. `rotates`: whether
    its queries and keys turn. An FFN that is a mixture of experts has `experts`, and no gate, up and down.
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
    gate: Projection | None
    up: Projection | None
    down: nn.Module | None
    experts: Experts | None
    ffn_norm: nn.Module | None
    head_size: int
    rotates: bool

    @property
    def heads(self) -> int:
        return self.q.width // self.head_size

    @property
    def kv_heads(self) -> int:
        return self.k.width // self.head_size

    def width(self, site: str) -> int:
        """How many neurons the layer has at a site."""
        ffn = self.experts or self.gate
        return {"ffn": ffn.width, "q": self.q.width, "k": self.k.width, "v": self.v.width, "o": self.q.width}[site]


class Decoder:
    """Finds the neurons of a model; UnsupportedModel where they are not where its family has them."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.family = family_of(model)
        self.base_model = model.base_model
        kind = model.config.model_type
        self._heads = getattr(model.config, "num_attention_heads", None)
        if not self._heads:
            raise UnsupportedModel(
                f"the configuration of {kind} has no num_attention_heads: say how many heads there are"
            )
        self.layers = [
            self._layer(layer, index) for index, layer in enumerate(find(self.base_model, self.family.layers, kind))
        ]
        self.tensor_parallel = tensor_parallel_of(model, self.layers[0].q.module.weight)
        for site in ("ffn", "q", "k"):
            if len({layer.width(site) for layer in self.layers}) != 1:
                raise UnsupportedModel(f"the layers of {type(model).__name__} differ in the width of {site}")

    @property
    def activation(self) -> str:
        """transformers' name of the FFNs' activation."""
        return activation_name(self.model.config, self.family)

    @property
    def final_modules(self) -> list[nn.Module]:
        """What comes after the last layer and before the head, in order."""
        found = []
        for path in self.family.final:
            parent, _, name = path.rpartition(".")
            parent = find(self.base_model, parent, self.model.config.model_type)
            if getattr(parent, name, parent) is not None:  # a model without this one has None there
                found.append(find(parent, name, self.model.config.model_type))
        return found

    def forward(self, input_ids: Tensor, attention_mask: Tensor):
        """Runs the model without its head, every document's first token at position 0, wherever its padding is."""
        positions = {}
        if self.family.positions:
            positions["position_ids"] = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        return self.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **positions)

    def widths(self) -> dict[str, int]:
        """Neurons a layer, by site."""
        return {site: self.layers[0].width(site) for site in ("ffn", "q", "k", "v", "o")}

    def require_weights(self) -> None:
        """UnsupportedModel where weights are not in memory, but offloaded or on the "meta" device."""
        if any(parameter.is_meta for parameter in self.base_model.parameters()):
            raise UnsupportedModel("weights of the model are offloaded: load it whole, on one device or several")

    def multiplier(self, norm: nn.Module) -> Tensor:
        """What a norm multiplies by, as applied."""
        return whole(norm.weight.detach()) + self.family.norm_offset

    def _layer(self, layer: nn.Module, index: int) -> Layer:
        family, where = self.family, f"layer {index}"
        attention = find(layer, family.attention, where)
        ffn = find(layer, family.ffn, where)
        o = find_linear(attention, family.o, where)
        if not getattr(attention, "is_causal", True):
            raise UnsupportedModel(f"the attention of {where} is not causal: a decoder was looked for")
        width = weight_of(o).shape[1]
        head_size, rest = divmod(width, self._heads)
        if rest:
            raise UnsupportedModel(f"{where}: {family.o} takes {width} values, which {self._heads} heads cannot share")
        q, k, v = attention_projections(attention, family, where, width, head_size)
        gate = up = down = experts = None
        if family.experts is not None:
            experts = ffn_experts(ffn, family, where)
        else:
            down = find_linear(ffn, family.down, where)
            gate, up = ffn_projections(ffn, family, where, width=weight_of(down).shape[1])
        return Layer(
            attention=attention,
            q=q,
            k=k,
            v=v,
            o=o,
            q_norm=family.q_norm and find(attention, family.q_norm, where),
            k_norm=family.k_norm and find(attention, family.k_norm, where),
            attention_norm=family.attention_norm and find(layer, family.attention_norm, where),
            ffn=ffn,
            gate=gate,
            up=up,
            down=down,
            experts=experts,
            ffn_norm=family.ffn_norm and find(layer, family.ffn_norm, where),
            head_size=head_size,
            rotates=bool(family.rotation and (family.rotates is None or getattr(attention, family.rotates))),
        )


def model_device(model: nn.Module) -> torch.device:
    """Where the model takes its input."""
    return model.get_input_embeddings().weight.device


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode (no dropout)."""
    with preserve_modes(model):
        model.eval()
        yield


@contextmanager
def preserve_modes(model: nn.Module) -> Iterator[None]:
    """Afterwards every module is in training or evaluation mode as it was before."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            if module.training != training:  # setting an attribute of a module takes its time
                module.training = training
