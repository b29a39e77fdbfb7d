"""Finds the neurons of a Hugging Face decoder, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from pymultiling.errors import UnsupportedModel
from pymultiling.mathematics.sums import upcast
from pymultiling.models.experts import Experts
from pymultiling.models.families import family_of
from pymultiling.models.family import activation_name
from pymultiling.models.find_modules import (
    CORRECT_ENTRY,
    attention_projections,
    ffn_experts,
    ffn_projections,
    find,
    find_linear,
    gate_projection,
    require_sinks,
)
from pymultiling.models.linear import Linear, Projection, inner_linear, inputs_of, outputs_of
from pymultiling.models.mask_reads import without_mask_reads
from pymultiling.models.pretrained import class_name, pretrained, tensor_attribute
from pymultiling.models.tensor_parallel import full_tensor, tensor_parallel_of
from pymultiling.models.unwrap import refuse_spread_weights, require_weights, text_decoder, unwrap
from pymultiling.neurons.sets import NeuronSet
from pymultiling.neurons.sites import SITES
from pymultiling.runtime.device_copies import to_device

if TYPE_CHECKING:
    from transformers.utils.generic import ModelOutput

CHUNKED = "chunked_attention"  # what configurations call layers whose attention is in chunks


@dataclass(frozen=True, eq=False)
class DenseFFN:
    """The projections of an FFN that is no mixture of experts.

    Attributes:
        gate: the projection that the activation is applied to. A plain FFN has this one and no `up`.
        up: the projection that the activation is multiplied by, or None.
        down: the projection back to the hidden size.
    """

    gate: Projection
    up: Projection | None
    down: Linear

    @property
    def width(self) -> int:
        """Number of neurons."""
        return self.gate.width


@dataclass(frozen=True, eq=False)
class SharedExpert:
    """The FFN beside the experts of a mixture that every token passes (Qwen2-MoE, ERNIE 4.5).

    Its neurons come after those of the experts: with E experts of I neurons, its neuron i is neuron E I + i of the
    layer.

    Attributes:
        parts: its projections.
        gate: a projection to one number, by whose sigmoid its output is multiplied, or None.
        module: where the decoder layer calls it, and not the FFN: its module. None: the FFN calls it.
    """

    parts: DenseFFN
    gate: nn.Module | None
    module: nn.Module | None


@dataclass(frozen=True, eq=False)
class Layer:
    """The modules of one decoder layer, and the sizes that follow from their weights.

    A layer with attention is an AttentionLayer. A layer with linear attention has neurons of the FFN only.

    Attributes:
        ffn: the module of the FFN.
        ffn_parts: the projections of the FFN, or its experts.
        shared: the expert of a mixture that every token passes, or None.
        ffn_norm: a norm of the FFN's output, or None.
    """

    ffn: nn.Module
    ffn_parts: DenseFFN | Experts
    shared: SharedExpert | None
    ffn_norm: nn.Module | None

    @property
    def gate(self) -> Projection | None:
        """The gate projection, which is the only projection of a plain FFN besides `down`; None for experts."""
        return self.ffn_parts.gate if isinstance(self.ffn_parts, DenseFFN) else None

    @property
    def up(self) -> Projection | None:
        """The up projection; None for a plain FFN and for experts."""
        return self.ffn_parts.up if isinstance(self.ffn_parts, DenseFFN) else None

    @property
    def down(self) -> Linear | None:
        """The down projection; None for experts."""
        return self.ffn_parts.down if isinstance(self.ffn_parts, DenseFFN) else None

    @property
    def experts(self) -> Experts | None:
        """The experts, or None where the FFN is no mixture of experts."""
        return self.ffn_parts if isinstance(self.ffn_parts, Experts) else None

    @property
    def dense(self) -> DenseFFN | None:
        """The projections through which all tokens pass: those of the FFN, or of the shared expert of a mixture."""
        if isinstance(self.ffn_parts, DenseFFN):
            return self.ffn_parts
        return None if self.shared is None else self.shared.parts

    @property
    def dense_members(self) -> slice:
        """Which FFN neurons of the layer are those of `dense`."""
        return slice(self.ffn_parts.width if isinstance(self.ffn_parts, Experts) else 0, None)

    def width(self, site: str) -> int:
        """Returns the number of neurons of a site; 0 for a site that the layer does not have."""
        return self.ffn_parts.width + (0 if self.shared is None else self.shared.parts.width) if site == "ffn" else 0


@dataclass(frozen=True, eq=False)
class AttentionLayer(Layer):
    """A layer with attention.

    Attributes:
        attention: the attention.
        q: the query projection.
        k: the key projection.
        v: the value projection.
        o: the output projection.
        output_gate: the outputs of the query projection's module, or of another one, by whose sigmoid the attention's
            output is multiplied before `o`, in the order of its inputs; None: it is not multiplied.
        q_norm: a norm of the queries, or None.
        k_norm: a norm of the keys; None where there is no `q_norm`.
        attention_norm: a norm of the attention's output, or None.
        head_size: the number of neurons of one head.
        rotates: whether queries and keys are rotated.
        local_window: how many positions a query sees, where the attention does not tell transformers' interface; None:
            all.
        chunk: a query sees the keys of its own chunk of this many tokens of the document; None: there are no chunks.
    """

    attention: nn.Module
    q: Projection
    k: Projection
    v: Projection
    o: Linear
    output_gate: Projection | None
    q_norm: nn.Module | None
    k_norm: nn.Module | None
    attention_norm: nn.Module | None
    head_size: int
    rotates: bool
    local_window: int | None
    chunk: int | None

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return self.q.width // self.head_size

    @property
    def kv_heads(self) -> int:
        """Number of key heads, which is that of value heads too."""
        return self.k.width // self.head_size

    def width(self, site: str) -> int:
        """Returns the number of neurons of a site."""
        widths = {"q": self.q.width, "k": self.k.width, "v": self.v.width, "o": self.q.width}
        return widths[site] if site in widths else super().width(site)


class Decoder:
    """Finds the neurons of a model.

    Attributes:
        model: the model, without torch's DataParallel or DistributedDataParallel and without PEFT's wrapper.
        family: the family of the model.
        base_model: the model without its head; of a model that takes more than text, the decoder of the text in it.
        config: the configuration of `base_model`.
        layers: the layers, from the first to the last.
        attention_layers: {number: layer} of the layers that have attention; all layers of most models.
        tensor_parallel: which part of the neurons this process computes.

    Raises:
        UnsupportedModel: the neurons are not where the family has them.
    """

    def __init__(self, model: nn.Module):
        self.model = model = unwrap(model)
        self.family = family_of(model)
        refuse_spread_weights(model)
        self.base_model = text_decoder(model)
        self.config = pretrained(model).config.get_text_config()
        model_type = self.config.model_type
        head_count: int | None = getattr(self.config, "num_attention_heads", None)
        if not head_count:
            raise UnsupportedModel(
                f"the configuration of {model_type} has no num_attention_heads: set it to the number of heads"
            )
        self.layers = [self._layer(layer, index, head_count) for index, layer in enumerate(self.layer_modules())]
        self.attention_layers = {
            index: layer for index, layer in enumerate(self.layers) if isinstance(layer, AttentionLayer)
        }
        if not self.attention_layers:
            raise UnsupportedModel(f"no layer of {class_name(model)} has {self.family.attention}: {CORRECT_ENTRY}")
        self._first = next(iter(self.attention_layers.values()))
        self.tensor_parallel = tensor_parallel_of(model, inner_linear(self._first.q.module).weight)
        for site in ("ffn", "q", "k"):
            widths = dict.fromkeys(self.layers[number].width(site) for number in self.layers_of(site))
            if len(widths) != 1:
                raise UnsupportedModel(
                    f"the layers of {class_name(model)} differ in the width of {site} ({', '.join(map(str, widths))} "
                    "neurons), which is not supported, also where some layers are dense and others mixtures of experts"
                )

    @cached_property
    def activation(self) -> str:
        """transformers' name of the FFNs' activation."""
        return activation_name(self.config, self.family)

    @property
    def final_modules(self) -> list[nn.Module]:
        """The modules after the last layer and before the head, in the order in which they run."""
        modules = []
        for path in self.family.final:
            parent_path, _, name = path.rpartition(".")
            parent = find(self.base_model, parent_path, self.config.model_type)
            if getattr(parent, name, parent) is not None:  # models that lack a module of the family set it to None
                modules.append(find(parent, name, self.config.model_type))
        return modules

    def layer_modules(self) -> nn.ModuleList:
        """Returns the model's list of decoder layers."""
        return cast("nn.ModuleList", find(self.base_model, self.family.layers, self.config.model_type))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> ModelOutput:
        """Runs the model without its head. On either side of padding, a document's first token has position 0.

        Padding on the right needs no mask, because no token sees those after it. Without one, transformers uses the
        attention's causal kernels, and reads nothing from the device.

        Args:
            input_ids: (documents, length) int64, on any device.
            attention_mask: (documents, length), 0 for padding. It is read on the CPU: a mask on a GPU is copied, which
                waits for the GPU.

        Returns:
            The base model's output, whose first entry is the last hidden state.

        Raises:
            ValueError: a token has no embedding.
        """
        return self.run(self.base_model, input_ids, attention_mask)

    def run(self, module: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> ModelOutput:
        """Runs the model, or its base model, as `forward` runs the latter.

        Args:
            module: `model` or `base_model`.
            input_ids: as in `forward`.
            attention_mask: as in `forward`.

        Returns:
            The module's output.

        Raises:
            ValueError: a token has no embedding.
        """
        check_token_ids(self.model, input_ids)
        device, mask = model_device(self.model), attention_mask.cpu()
        inputs = self._inputs(to_device(input_ids, device))
        needs_mask = self.needs_mask(mask)
        if needs_mask:
            inputs["attention_mask"] = to_device(mask, device)
            if self.family.positions:
                inputs["position_ids"] = to_device((mask.long().cumsum(-1) - 1).clamp(min=0), device)
        with without_mask_reads(has_mask=needs_mask):
            output: ModelOutput = module(**inputs, use_cache=False)
        return output

    def needs_mask(self, attention_mask: Tensor) -> bool:
        """Whether `forward` passes this mask, (documents, length) on the CPU, to the model."""
        return not _is_padded_right(attention_mask)

    def _inputs(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Returns what the model gets as its input: the tokens or their embeddings."""
        if self.config.model_type in ("gpt2", "openai-gpt") and self.config.pad_token_id is not None:
            # Without a mask these would read the tokens from the device, to warn if there are tokens of padding.
            return {"inputs_embeds": pretrained(self.model).get_input_embeddings()(input_ids)}
        return {"input_ids": input_ids}

    def widths(self) -> dict[str, int]:
        """Returns the number of neurons of a layer, by site: for q, k, v and o of a layer that has attention."""
        return {site: self._first.width(site) for site in SITES}

    @property
    def hidden_size(self) -> int:
        """Size of the hidden states between layers."""
        return outputs_of(self._first.o)

    def layers_of(self, site: str) -> list[int]:
        """Returns the numbers of the layers that have neurons of a site."""
        return list(range(len(self.layers))) if site == "ffn" else list(self.attention_layers)

    def check_set(self, neurons: NeuronSet, name: str = "the set") -> None:
        """Checks that a set belongs to this model.

        Args:
            neurons: the set.
            name: what the error message calls the set.

        Raises:
            ValueError: the set has another number of layers or of neurons, or attention neurons in a layer that has no
                attention.
        """
        neurons.check_fits(self.widths(), len(self.layers), name)
        for site, mask in neurons.sites.items():
            without = sorted(set(mask.any(1).nonzero().flatten().tolist()).difference(self.layers_of(site)))
            if without:
                raise ValueError(
                    f"{name} has {site} neurons in layer {without[0]}, which has {self.family.linear_attention} in "
                    "place of attention and so no such neurons: give neurons of the layers that have attention, "
                    f"{', '.join(map(str, self.attention_layers))}"
                )

    def require_weights(self) -> None:
        """Checks that all weights are in memory.

        Raises:
            UnsupportedModel: weights are offloaded or on the "meta" device.
        """
        require_weights(self.base_model)

    def multiplier(self, norm: nn.Module) -> Tensor:
        """Returns what a norm multiplies by: its weight and the family's offset, added in float32 as such norms do."""
        weight = full_tensor(tensor_attribute(norm, "weight").detach())
        return upcast(weight) + self.family.norm_offset if self.family.norm_offset else weight

    def head_multiplier(self, norm: nn.Module, layer: AttentionLayer) -> Tensor:
        """Returns what a norm of queries or keys multiplies by: (d,), or (heads d,) if it is over all heads."""
        if getattr(norm, "weight", None) is None:
            weight = inner_linear(layer.q.module).weight
            return torch.ones(layer.head_size, device=weight.device, dtype=weight.dtype)
        return self.multiplier(norm)

    def sinks(self, layer: AttentionLayer) -> Tensor | None:
        """Returns the scores (H,) of the sinks of a layer's attention, or None if the family has none."""
        name = self.family.sinks
        return None if name is None else tensor_attribute(layer.attention, name).detach()

    def _layer(self, layer: nn.Module, index: int, head_count: int) -> Layer:
        family, where = self.family, f"layer {index}"
        ffn = find(layer, family.ffn, where)
        ffn_parts: DenseFFN | Experts
        shared: SharedExpert | None = None
        if family.experts is None or hasattr(ffn, family.down):
            ffn_parts = self._dense_ffn(ffn, where)
        else:
            ffn_parts = ffn_experts(ffn, family.experts, family, where)
            if family.shared_expert is not None:
                module = find(layer if family.shared_expert_in_layer else ffn, family.shared_expert, where)
                parts = self._dense_ffn(module, f"{family.shared_expert} of {where}")
                gate = _find_optional(ffn, family.shared_expert_gate, where)
                shared = SharedExpert(parts, gate, module if family.shared_expert_in_layer else None)
        ffn_only = Layer(ffn, ffn_parts, shared, _find_optional(layer, family.ffn_norm, where))
        if family.linear_attention is not None and hasattr(layer, family.linear_attention):
            return ffn_only
        return self._attention_layer(ffn_only, layer, index, head_count)

    def _attention_layer(self, ffn_only: Layer, layer: nn.Module, index: int, head_count: int) -> AttentionLayer:
        family, where = self.family, f"layer {index}"
        attention = find(layer, family.attention, where)
        o = find_linear(attention, family.o, where)
        if not getattr(attention, "is_causal", True):
            raise UnsupportedModel(f"the attention of {where} is not causal: only decoders are supported")
        width = inputs_of(o)
        head_size, rest = divmod(width, head_count)
        if rest:
            raise UnsupportedModel(
                f"{where}: {family.o} takes {width} values, which {head_count} heads cannot share: {CORRECT_ENTRY}"
            )
        q, k, v = attention_projections(attention, family, where, width, head_size)
        rotates = bool(family.rotation) and _rotates(attention, family.rotates)
        has_norms = rotates or not family.norms_behind_rotation
        q_norm, k_norm = (
            _find_optional(attention, path if has_norms else None, where) for path in (family.q_norm, family.k_norm)
        )
        if family.sinks is not None:
            require_sinks(attention, family.sinks, where, head_count)
            if q_norm is not None and is_over_all_heads(q_norm, head_size):
                raise UnsupportedModel(
                    f"{where} has sinks and a norm of its queries over all heads, which is not supported"
                )
        return AttentionLayer(
            **vars(ffn_only),
            attention=attention,
            q=q,
            k=k,
            v=v,
            o=o,
            output_gate=gate_projection(attention, family, where, q, head_size),
            q_norm=q_norm,
            k_norm=k_norm,
            attention_norm=_find_optional(layer, family.attention_norm, where),
            head_size=head_size,
            rotates=rotates,
            local_window=family.local_window if getattr(attention, "attention_type", None) == "local" else None,
            chunk=family.chunk if family.chunk and self.config.layer_types[index] == CHUNKED else None,
        )

    def _dense_ffn(self, ffn: nn.Module, where: str) -> DenseFFN:
        down = find_linear(ffn, self.family.down, where)
        gate, up = ffn_projections(ffn, self.family, where, width=inputs_of(down))
        return DenseFFN(gate, up, down)


def _rotates(attention: nn.Module, names: str | tuple[str, ...] | None) -> bool:
    if names is None:
        return True
    return any(getattr(attention, name) for name in ((names,) if isinstance(names, str) else names))


def is_over_all_heads(norm: nn.Module, head_size: int) -> bool:
    """Whether a norm of queries or keys is over all heads together, and not over each."""
    weight: Tensor | None = getattr(norm, "weight", None)
    return weight is not None and weight.shape[-1] > head_size


def _find_optional(parent: nn.Module, path: str | None, where: str) -> nn.Module | None:
    return find(parent, path, where) if path else None


def _is_padded_right(mask: Tensor) -> bool:
    """Whether no token of a mask (documents, length) comes after padding."""
    return bool((mask[:, 1:].bool() <= mask[:, :-1].bool()).all())


def model_device(model: nn.Module) -> torch.device:
    """Returns the device on which the model expects its input."""
    return tensor_attribute(pretrained(model).get_input_embeddings(), "weight").device


def check_token_ids(model: nn.Module, input_ids: Tensor) -> None:
    """Checks that every token has an embedding. Tokens on a GPU are not read, because that waits for it.

    Raises:
        ValueError: a token has none.
    """
    if input_ids.is_cpu and input_ids.numel():
        rows = tensor_attribute(pretrained(model).get_input_embeddings(), "weight").shape[0]
        for token in (int(value) for value in input_ids.aminmax()):
            if not 0 <= token < rows:
                raise ValueError(
                    f"token {token} has no embedding, the model has those of tokens 0 to {rows - 1}: use the "
                    "tokenizer that belongs to the model, or give the model embeddings for all tokens "
                    "(resize_token_embeddings)"
                )
