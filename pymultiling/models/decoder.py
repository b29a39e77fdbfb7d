"""Finds the neurons of a Hugging Face decoder or encoder, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, cast

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
    has,
    latent_projections,
    require_sinks,
)
from pymultiling.models.latent_heads import LatentHeads
from pymultiling.models.linear import Linear, Projection, inner_linear, inputs_of, outputs_of
from pymultiling.models.mask_reads import without_mask_reads
from pymultiling.models.pretrained import class_name, pretrained, tensor_attribute
from pymultiling.models.tensor_parallel import full_tensor, is_spread, tensor_parallel_of
from pymultiling.models.unwrap import refuse_spread_weights, require_weights, text_decoder, unwrap
from pymultiling.neurons.sets import NeuronSet
from pymultiling.neurons.sites import SITES
from pymultiling.neurons.widths import are_neurons
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
        gate_sparsity: s of `Family.gate_sparsity`; 0: the activation gets the gate as it is.
    """

    gate: Projection
    up: Projection | None
    down: Linear
    gate_sparsity: float = 0.0

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
    """The modules of one layer, and the sizes that follow from their weights.

    A layer with attention is an AttentionLayer. A layer with linear attention has neurons of the FFN only.

    Attributes:
        ffn: the module of the FFN.
        ffn_parts: the projections of the FFN, or its experts.
        shared: the expert of a mixture that every token passes, or None.
        ffn_norm: a norm of the FFN's output, or None.
        returns_normed: whether `ffn_norm` is inside the FFN, which returns what the norm returns.
        absent: {site: why the layer has no neurons of it, as the end of "layer 1, ..."}.
    """

    ffn: nn.Module
    ffn_parts: DenseFFN | Experts
    shared: SharedExpert | None
    ffn_norm: nn.Module | None
    returns_normed: bool
    absent: Mapping[str, str]

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
        return slice(self.ffn_parts.width if isinstance(self.ffn_parts, Experts) else 0, self.width("ffn"))

    def width(self, site: str) -> int:
        """Returns the number of neurons of a site; 0 for a site that the layer does not have."""
        return self.ffn_parts.width + (0 if self.shared is None else self.shared.parts.width) if site == "ffn" else 0


class SiteProjection(NamedTuple):
    """A projection whose outputs are neurons of q, k or v.

    Attributes:
        site: the site.
        projection: the projection.
        members: which neurons of the layer's site these are.
    """

    site: str
    projection: Projection
    members: slice


@dataclass(frozen=True, eq=False)
class AttentionLayer(Layer):
    """A layer with attention.

    Attributes:
        attention: the attention.
        core: the module inside the attention that multiplies queries by keys, or the attention itself.
        q: the query projection.
        k: the key projection; None in a layer that takes the keys of another one.
        shared_k: the projection of the dimensions of the keys that all heads share, in multi-head latent attention.
            Its neurons come after those of `k`. None: every head has its own.
        v: the value projection; None in a layer that takes the values of another one, or its keys as values.
        o: the output projection.
        output_gate: the outputs of the query projection's module, or of another one, by whose sigmoid (or
            `Family.gate_function`) the attention's output is multiplied before `o`, in the order of its inputs, or one
            for each head; None: it is not multiplied.
        q_norm: a norm of the queries, or None.
        k_norm: a norm of the keys; None where there is no `q_norm` or no `k`.
        v_norm: a norm of the values, or None.
        attention_norm: a norm of the attention's output, or None.
        sum_norms: the norms of the sums of the residual and the outputs of the attention and of the FFN, where
            these modules return what the norms return, or None.
        sums: the modules that add the residual to the output of the attention and to that of the FFN, where the
            attention returns what the first one returns, or none.
        head_size: the number of dimensions of one query or key.
        value_size: the number of dimensions of one value.
        latent: the dimensions of queries and keys in multi-head latent attention, or None.
        rotates: whether queries and keys are rotated.
        local_window: how many positions a query sees, where the attention does not tell transformers' interface; None:
            all.
        chunk: a query sees the keys of its own chunk of this many tokens of the document; None: there are no chunks.
    """

    attention: nn.Module
    core: nn.Module
    q: Projection
    k: Projection | None
    shared_k: Projection | None
    v: Projection | None
    o: Linear
    output_gate: Projection | None
    q_norm: nn.Module | None
    k_norm: nn.Module | None
    v_norm: nn.Module | None
    attention_norm: nn.Module | None
    sum_norms: tuple[nn.Module, nn.Module] | None
    sums: tuple[nn.Module, ...]
    head_size: int
    value_size: int
    latent: LatentHeads | None
    rotates: bool
    local_window: int | None
    chunk: int | None

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return self.q.width // self.head_size

    @property
    def kv_heads(self) -> int:
        """Number of key heads, which is that of value heads too; 0 in a layer that takes those of another one."""
        if self.v is not None:
            return self.v.width // self.value_size
        return 0 if self.k is None else self.k.width // self.head_size

    def width(self, site: str) -> int:
        """Returns the number of neurons of a site."""
        if site == "o":
            return self.heads * self.value_size
        own = sum(projection.width for name, projection, _ in self.projections() if name == site)
        return own or super().width(site)

    def projections(self) -> list[SiteProjection]:
        """Returns the projections whose outputs are neurons of q, k and v."""
        parts = [("q", self.q), ("k", self.k), ("v", self.v)]
        projections = [SiteProjection(site, part, slice(0, part.width)) for site, part in parts if part is not None]
        if self.k is not None and self.shared_k is not None:
            members = slice(self.k.width, self.k.width + self.shared_k.width)
            projections.append(SiteProjection("k", self.shared_k, members))
        return projections


class Decoder:
    """Finds the neurons of a model.

    Attributes:
        model: the model, without torch's DataParallel or DistributedDataParallel and without PEFT's wrapper.
        family: the family of the model.
        base_model: the model without its head; of a model that takes more than text, the decoder of the text in it; of
            an encoder-decoder the encoder.
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
        self.base_model = text_decoder(model, self.family.is_pair)
        # The stacks of T5 have configurations of their own.
        self.config = pretrained(self.base_model if self.family.is_pair else model).config.get_text_config()
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
        if self.family.kv is not None and is_spread(model):
            raise UnsupportedModel(
                f"{class_name(model)} is spread over processes, whose heads share a part of their keys, which is not "
                "supported: load the model without tp_plan, for example with device_map"
            )
        self._layer_widths: dict[str, tuple[int, ...]] = {
            site: tuple(layer.width(site) for layer in self.layers) for site in SITES
        }
        self.tensor_parallel = tensor_parallel_of(model, inner_linear(self._first.q.module).weight)
        for site, widths in self._layer_widths.items() if self.tensor_parallel.count > 1 else ():
            if len(set(widths)) > 1:
                raise UnsupportedModel(
                    f"the layers of {class_name(model)} differ in the width of {site} "
                    f"({', '.join(map(str, sorted(set(widths))))} neurons), which is not supported where a model is "
                    "spread over processes (tp_plan): load it whole"
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
        """Runs the model without its head. On either side of padding, a document's first token has the same position.

        In causal attention padding on the right needs no mask, because no token sees those after it. Without one,
        transformers uses the attention's causal kernels, and reads nothing from the device.

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
        needs_mask = self.needs_mask(mask)
        if self.family.counts_padding and needs_mask:
            input_ids = input_ids.masked_fill(~mask.bool().to(input_ids.device), self.config.pad_token_id)
        inputs = self._inputs(to_device(input_ids, device))
        if needs_mask:
            inputs["attention_mask"] = to_device(mask, device)
        first = self.family.first_position
        if self.family.positions and needs_mask:
            inputs["position_ids"] = to_device((mask.long().cumsum(-1) - 1).clamp(min=0) + first, device)
        elif first:  # such models would count only the tokens that are not their vocabulary's padding token
            inputs["position_ids"] = torch.arange(first, first + mask.shape[1], device=device)[None]
        with without_mask_reads(has_mask=needs_mask):
            output: ModelOutput = module(**inputs, use_cache=False)
        return output

    def needs_mask(self, attention_mask: Tensor) -> bool:
        """Whether `forward` passes this mask, (documents, length) on the CPU, to the model."""
        return not (_is_padded_right(attention_mask) if self.family.causal else bool(attention_mask.all()))

    def _inputs(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Returns what the model gets as its input: the tokens or their embeddings."""
        warning = ("gpt2", "megatron-bert", "openai-gpt", "rembert")
        if self.config.model_type in warning and self.config.pad_token_id is not None:
            # Without a mask these would read the tokens from the device, to warn if there are tokens of padding.
            return {"inputs_embeds": pretrained(self.model).get_input_embeddings()(input_ids)}
        return {"input_ids": input_ids}

    def widths(self) -> dict[str, int]:
        """Returns the number of neurons of the widest layer, by site. Results have as many for every layer."""
        return {site: max(widths) for site, widths in self._layer_widths.items()}

    def layer_widths(self) -> dict[str, tuple[int, ...]]:
        """Returns the number of neurons of each layer, by site; 0 for layers that lack the site."""
        return self._layer_widths

    @property
    def hidden_size(self) -> int:
        """Size of the hidden states between layers."""
        return outputs_of(self._first.o)

    def layers_of(self, site: str) -> list[int]:
        """Returns the numbers of the layers that have neurons of a site."""
        return [number for number, width in enumerate(self._layer_widths[site]) if width]

    def check_set(self, neurons: NeuronSet, name: str = "the set") -> None:
        """Checks that a set belongs to this model.

        Args:
            neurons: the set.
            name: what the error message calls the set.

        Raises:
            ValueError: the set has another number of layers or of neurons, or neurons that a layer does not have.
        """
        neurons.check_fits(self.widths(), len(self.layers), name)
        for site, widths in self._layer_widths.items():
            if site not in neurons.sites or len(set(widths)) == 1:
                continue
            mask = neurons.sites[site]
            beyond = (mask & ~are_neurons(widths, mask.shape[1])).nonzero().tolist()
            if not beyond:
                continue
            layer, index = beyond[0]
            if widths[layer]:
                raise ValueError(
                    f"{name} has neuron {index} of {site} in layer {layer}, which has {widths[layer]:,} of them: the "
                    f"layers of this model differ in width; give NeuronSet(masks, widths), as the sets of detect have"
                )
            raise ValueError(
                f"{name} has {site} neurons in layer {layer}, {self.layers[layer].absent[site]}: give neurons of the "
                f"layers that have {site}, {', '.join(map(str, self.layers_of(site)))}"
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
        """Returns the scores (H,) of the sinks of a layer's attention, or None if it has none."""
        name = self.family.sinks
        if name is None or getattr(layer.attention, name) is None:
            return None
        return tensor_attribute(layer.attention, name).detach()

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
        is_linear = family.linear_attention is not None and has(layer, family.linear_attention)
        has_norm = family.linear_ffn_norm or not is_linear
        norm = _find_optional(layer, family.ffn_norm if has_norm else None, where)
        returns_normed = family.experts_norm is not None and isinstance(ffn_parts, Experts)
        if returns_normed:
            norm = _find_optional(ffn, family.experts_norm, where)
        if is_linear:
            reason = "which has linear attention and so no such neurons"
            return Layer(ffn, ffn_parts, shared, norm, returns_normed, dict.fromkeys(("q", "k", "v", "o"), reason))
        ffn_only = Layer(ffn, ffn_parts, shared, norm, returns_normed, {})
        return self._attention_layer(ffn_only, layer, index, head_count)

    def _attention_layer(self, ffn_only: Layer, layer: nn.Module, index: int, head_count: int) -> AttentionLayer:
        family, where = self.family, f"layer {index}"
        attention = find(layer, family.attention, where)
        if family.own_heads is not None:
            own_count = getattr(attention, family.own_heads, None)
            if not isinstance(own_count, int) or own_count < 1:
                raise UnsupportedModel(
                    f"{where}: {type(attention).__name__} has no number of heads under the name of the family's "
                    f"own_heads, {family.own_heads}: {CORRECT_ENTRY}"
                )
            head_count = own_count
        o = find_linear(attention, family.o, where)
        core = find(attention, family.core, where)
        if getattr(core, "is_causal", family.causal) != family.causal:
            kind, other = ("not causal", "is") if family.causal else ("causal", "is not")
            raise UnsupportedModel(
                f"the attention of {where} is {kind}, and by its family's entry it {other}: {CORRECT_ENTRY}"
            )
        width = inputs_of(o)
        value_size, rest = divmod(width, head_count)
        if rest:
            raise UnsupportedModel(
                f"{where}: {family.o} takes {width} values, which {head_count} heads cannot share: {CORRECT_ENTRY}"
            )
        latent, shared_k = None, None
        if family.kv is None:
            q, k, v = attention_projections(attention, family, where, head_count, value_size)
            head_size = q.width // head_count
        else:
            q, k, v, shared_k = latent_projections(attention, family, where, head_count)
            latent = LatentHeads(k.width // head_count, shared_k.width, family.regrouped)
            head_size = latent.size
        absent = {}
        if k is None:
            absent = dict.fromkeys(("k", "v"), "which takes the keys and values of an earlier layer")
        elif v is None:
            absent = {"v": "which takes its keys as values"}
        rotates = bool(family.rotation) and _rotates(attention, family.rotates)
        has_norms = rotates or not family.norms_behind_rotation
        q_norm = _find_optional(attention, family.q_norm if has_norms else None, where)
        k_norm = _find_optional(attention, family.k_norm if has_norms and k is not None else None, where)
        if family.sinks is not None:
            require_sinks(attention, family.sinks, where, head_count)
            if q_norm is not None and is_over_all_heads(q_norm, head_size):
                raise UnsupportedModel(
                    f"{where} has sinks and a norm of its queries over all heads, which is not supported"
                )
        return AttentionLayer(
            **{**vars(ffn_only), "absent": absent},
            attention=attention,
            core=core,
            q=q,
            k=k,
            shared_k=shared_k,
            v=v,
            o=o,
            output_gate=gate_projection(attention, family, where, q, head_size),
            q_norm=q_norm,
            k_norm=k_norm,
            v_norm=None if k is None else _find_optional(attention, family.v_norm, where),
            attention_norm=_find_optional(layer, family.attention_norm, where),
            sum_norms=self._sum_norms(layer, where),
            sums=tuple(find(layer, path, where) for path in family.sums),
            head_size=head_size,
            value_size=value_size,
            latent=latent,
            rotates=rotates,
            local_window=family.local_window if getattr(attention, "attention_type", None) == "local" else None,
            chunk=family.chunk if family.chunk and self.config.layer_types[index] == CHUNKED else None,
        )

    def _sum_norms(self, layer: nn.Module, where: str) -> tuple[nn.Module, nn.Module] | None:
        if self.family.sum_norms is None:
            return None
        after_attention, after_ffn = self.family.sum_norms
        return find(layer, after_attention, where), find(layer, after_ffn, where)

    def _dense_ffn(self, ffn: nn.Module, where: str) -> DenseFFN:
        down = find_linear(ffn, self.family.down, where)
        gate, up = ffn_projections(ffn, self.family, where, width=inputs_of(down))
        name = self.family.gate_sparsity
        return DenseFFN(gate, up, down, 0.0 if name is None else float(getattr(ffn, name)))


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
