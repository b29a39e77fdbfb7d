"""Describes a family of decoders: where its neurons are, and what its attention does with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pymultiling.errors import UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Family:
    """Describes where a family of decoders keeps its neurons, and what its attention does with them.

    The defaults describe Llama, so only the differences need to be given. `register_family` takes a Family. `layers`
    and `final` are paths inside the base model (the model without its head). `attention`, `ffn`, `attention_norm` and
    `ffn_norm` are paths inside a decoder layer, where "" is the layer itself. All other paths are inside the
    attention or the FFN.

    Attributes:
        layers: the list of decoder layers.
        final: the modules after the last layer and before the head. A module that a model sets to None is left out.
        positions: whether the base model takes `position_ids`.
        attention: the attention.
        linear_attention: what layers without `attention` have in its place. Such layers have neurons of the FFN only.
            None: all layers have `attention`.
        q: the query projection.
        k: the key projection.
        v: the value projection.
        qkv: one projection for queries, keys and values, in place of `q`, `k` and `v`.
        qkv_by_head: the order of the outputs of `qkv`. True: for every key head the queries that share it, then the
            key, then the value. False: all queries, then all keys, then all values.
        q_norm: a norm of the queries before the rotation (see `norms_behind_rotation`). The length of its weight tells
            whether it is over one head or over all heads. A norm without a weight is over one head.
        k_norm: a norm of the keys before the rotation, over one head or over all heads in the same way.
        centred_norms: whether `q_norm` and `k_norm` subtract the mean, as LayerNorm does.
        norms_behind_rotation: whether `q_norm` and `k_norm` come behind the rotation. They are then RMSNorms over one
            head, and layers that do not rotate have none.
        clip: the largest magnitude to which the outputs of the query, key and value projections are clipped; None: they
            are not clipped.
        interface: whether the attention passes queries and keys to transformers' attention interface. If not, they are
            taken from the projections, and attention scores are scaled by `score_scale`.
        score_scale: with interface=False, the factor of the attention scores; None: head size^-1/2.
        local_window: with interface=False, how many positions a query sees, its own included, in layers whose
            attention has the `attention_type` "local"; None: there are no such layers.
        scaled_queries: whether the attention multiplies queries by head size^-1/2 before it passes them to the
            interface.
        query_scaling: (b, n): the attention multiplies the query at position p by 1 + b ln(1 + floor(p / n)), behind
            the rotation. It gets the positions as `position_ids`. None: queries are not scaled by position.
        query_scaling_unrotated: whether `query_scaling` is for the layers that do not rotate only. For p it then counts
            the tokens of the row up to this one, padding and this one included.
        rotation: the keyword argument in which the attention gets the cosines and sines of the rotation. A layer that
            gets None does not rotate. None: nothing is rotated.
        rotates: an attribute of the attention that is true in the layers that rotate, or several, of which one is true
            in them; None: all layers rotate.
        interleaved: whether dimensions 2m and 2m + 1 are rotated together, rather than m and m + r/2.
        backwards: whether a rotation of dimensions m and m + r/2 is by the negative of the tables' angles.
        half_tables: whether the tables of an interleaved rotation hold all angles once, followed by a copy of them.
        rotation_table: a buffer of the attention with a row for each position, the sines of all angles and then their
            cosines. `rotation` is then the keyword argument in which the attention gets the positions.
        alibi: biases of the attention scores that grow with the position of the key; the attention gets them as
            `alibi_keyword`. "added": they are added to the scaled attention scores. "scaled": they are added before the
            scaling.
        alibi_keyword: the keyword argument in which the attention gets the biases, for all documents or for each, and
            for the positions of the document or for more, of which the last ones count.
        single_tables: whether the tables of the rotation have r/2 columns, one for both dimensions of a pair.
        complex_tables: whether the table of an interleaved rotation is one of r/2 complex numbers, cosine + i sine.
        chunk: in layers that the configuration's `layer_types` calls "chunked_attention", a query sees the keys of its
            own chunk of this many tokens of the document. None: there are no chunks.
        sinks: a parameter of the attention, (query heads,): scores of attention sinks. softmax weighs the sink of a
            head beside the keys, without the soft cap, and its probability is dropped. None: there are none.
        o: the output projection.
        output_gate: whether `q` gives, for every head, the query and then a gate of the same size, by whose sigmoid the
            attention's output is multiplied before `o`. The neurons of q are those of the query. Or the path of a
            projection that gives the gates of all heads.
        attention_norm: a norm of the attention's output, before it is added to the residual.
        ffn: the FFN.
        gate: the gate projection; None: the FFN is a plain one, act(up).
        up: the up projection.
        gate_up: one projection for gate and up, in this order, in place of `gate` and `up`.
        down: the down projection.
        experts: the module of all experts of a mixture-of-experts FFN, in place of the projections. Its parameters are
            gate_up_proj (experts, 2 width, inputs) and down_proj (experts, inputs, width), and where they have biases
            gate_up_proj_bias (experts, 2 width) and down_proj_bias (experts, inputs). Layers whose FFN has `down` in
            its place are dense.
        transposed_experts: whether the parameters of the experts are transposed: (experts, inputs, 2 width) and
            (experts, width, inputs).
        interleaved_experts: whether gate and up alternate in gate_up_proj, rather than gate coming before up.
        clamped_swiglu: (a, c): experts compute (up + 1) gate sigmoid(a gate), where gate is at most c, and up from -c
            to c. None: they compute act(gate) up.
        scaled_expert_inputs: whether the experts get their tokens multiplied by the router's weight, all tokens once
            for each expert, with zeros where a token is not routed to it. Their outputs are added up as they are.
        shared_expert: with `experts`, an FFN inside the FFN that every token passes, with `gate`, `up` and `down`. Its
            output is added to that of the experts.
        shared_expert_in_layer: whether `shared_expert` is in the decoder layer, which adds its output to the FFN's.
        shared_expert_gate: a projection of the FFN's input to one number, by whose sigmoid the output of
            `shared_expert` is multiplied; None: it is not multiplied.
        ffn_norm: a norm of the FFN's output, before it is added to the residual.
        ffn_alone: whether the FFN is a module that is called with its input and nothing else.
        activation: transformers' name of the FFN's activation; None: it is read from the configuration.
        activation_parameters: the module inside the FFN that has the activation's parameters; None: it has none.
        norm_offset: what norms add to their weight before they multiply by it.

    Raises:
        ValueError: alibi is unknown, or a combination of values is not supported.
    """

    layers: str = "layers"
    final: tuple[str, ...] = ("norm",)
    positions: bool = True
    attention: str = "self_attn"
    linear_attention: str | None = None
    q: str = "q_proj"
    k: str = "k_proj"
    v: str = "v_proj"
    qkv: str | None = None
    qkv_by_head: bool = False
    q_norm: str | None = None
    k_norm: str | None = None
    centred_norms: bool = False
    norms_behind_rotation: bool = False
    clip: float | None = None
    interface: bool = True
    score_scale: float | None = None
    local_window: int | None = None
    scaled_queries: bool = False
    query_scaling: tuple[float, int] | None = None
    query_scaling_unrotated: bool = False
    rotation: str | None = "position_embeddings"
    rotates: str | tuple[str, ...] | None = None
    interleaved: bool = False
    backwards: bool = False
    half_tables: bool = False
    rotation_table: str | None = None
    alibi: Literal["added", "scaled"] | None = None
    alibi_keyword: str = "alibi"
    single_tables: bool = False
    complex_tables: bool = False
    chunk: int | None = None
    sinks: str | None = None
    o: str = "o_proj"
    output_gate: bool | str = False
    attention_norm: str | None = None
    ffn: str = "mlp"
    gate: str | None = "gate_proj"
    up: str = "up_proj"
    gate_up: str | None = None
    down: str = "down_proj"
    experts: str | None = None
    transposed_experts: bool = False
    interleaved_experts: bool = False
    clamped_swiglu: tuple[float, float] | None = None
    scaled_expert_inputs: bool = False
    shared_expert: str | None = None
    shared_expert_in_layer: bool = False
    shared_expert_gate: str | None = None
    ffn_norm: str | None = None
    ffn_alone: bool = True
    activation: str | None = None
    activation_parameters: str | None = None
    norm_offset: float = 0.0

    def __post_init__(self) -> None:
        for is_valid, rule in (
            (self.alibi in (None, "added", "scaled"), 'alibi must be "added", "scaled" or None'),
            (
                self.alibi is None or not (self.interface or self.rotation),
                "alibi needs interface=False and rotation=None",
            ),
            (
                not self.interface or (self.score_scale is None and self.local_window is None),
                "score_scale and local_window need interface=False",
            ),
            (
                self.rotation_table is None or bool(self.rotation and self.interleaved and not self.half_tables),
                "rotation_table needs rotation, interleaved=True and half_tables=False",
            ),
            ((self.q_norm is None) == (self.k_norm is None), "give q_norm and k_norm both, or neither"),
            (self.q_norm is None or self.interface, "q_norm and k_norm need interface=True"),
            (
                self.query_scaling is None or (self.interface and not self.centred_norms),
                "query_scaling needs interface=True and centred_norms=False",
            ),
            (
                not self.query_scaling_unrotated or bool(self.query_scaling and self.rotates),
                "query_scaling_unrotated needs query_scaling and rotates",
            ),
            (
                not self.norms_behind_rotation or bool(self.q_norm and not self.centred_norms),
                "norms_behind_rotation needs q_norm and centred_norms=False",
            ),
            (
                not self.norms_behind_rotation or self.query_scaling is None or self.query_scaling_unrotated,
                "norms_behind_rotation needs query_scaling=None, or query_scaling_unrotated",
            ),
            (
                not self.output_gate or (self.qkv is None and self.clip is None),
                "output_gate needs qkv=None and clip=None",
            ),
            (not (self.backwards and self.interleaved), "backwards needs interleaved=False"),
            (self.interleaved or not self.half_tables, "half_tables needs interleaved=True"),
            (not (self.single_tables and self.interleaved), "single_tables needs interleaved=False"),
            (
                not self.complex_tables or (self.interleaved and not self.half_tables),
                "complex_tables needs interleaved=True and half_tables=False",
            ),
            (self.chunk is None or self.interface, "chunk needs interface=True"),
            (
                self.sinks is None or (self.interface and not self.centred_norms),
                "sinks needs interface=True and centred_norms=False",
            ),
            (
                self.ffn_norm is None or not self.shared_expert_in_layer,
                "ffn_norm needs shared_expert_in_layer=False",
            ),
            (self.experts is not None or self.shared_expert is None, "shared_expert needs experts"),
            (
                self.experts is not None
                or not (
                    self.transposed_experts
                    or self.interleaved_experts
                    or self.clamped_swiglu
                    or self.scaled_expert_inputs
                ),
                "transposed_experts, interleaved_experts, clamped_swiglu and scaled_expert_inputs need experts",
            ),
            (
                self.shared_expert_gate is None or not self.shared_expert_in_layer,
                "shared_expert_gate needs shared_expert_in_layer=False",
            ),
            (
                self.shared_expert is not None or not (self.shared_expert_gate or self.shared_expert_in_layer),
                "shared_expert_gate and shared_expert_in_layer need shared_expert",
            ),
        ):
            if not is_valid:
                raise ValueError(f"such a Family is not supported: {rule}")


def activation_name(config: PreTrainedConfig, family: Family) -> str:
    """Returns transformers' name of the FFN's activation.

    Raises:
        UnsupportedModel: neither the family nor the configuration names it.
    """
    fields = ("hidden_activation", "hidden_act", "activation_function", "activation")
    for name in (family.activation, *(getattr(config, field, None) for field in fields)):
        if name:
            return name
    raise UnsupportedModel(
        f"the configuration does not name the FFN's activation: looked for one of {', '.join(fields)}; pass it to "
        "pymultiling.Family as activation"
    )
