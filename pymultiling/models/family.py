"""Describes a family of models: where its neurons are, and what its attention does with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pymultiling.errors import UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Family:
    """Describes where a family of decoders or encoders keeps its neurons, and what its attention does with them.

    The defaults describe Llama, so only the differences need to be given. `register_family` takes a Family. `layers`
    and `final` are paths inside the base model (the model without its head). `attention`, `ffn`, `attention_norm`,
    `ffn_norm` and `sum_norms` are paths inside a layer, where "" is the layer itself. All other paths are inside the
    attention or the FFN.

    Attributes:
        layers: the list of layers.
        final: the modules after the last layer and before the head. A module that a model sets to None is left out.
        positions: whether the base model takes `position_ids`.
        is_pair: whether the model is an encoder-decoder. The base model is then its encoder, which the model's
            `get_encoder` returns, and layers are those of the encoder.
        counts_padding: whether positions count the tokens that are not the padding token of the configuration.
            Padding is then given as this token.
        first_position: the position of a document's first token.
        attention: the attention.
        core: the module inside the attention that multiplies queries by keys; "": the attention itself.
        causal: whether a token sees no tokens after itself. False: it sees all tokens of its document, as in encoders.
        linear_attention: what layers without `attention` have in its place. Such layers have neurons of the FFN only.
            None: all layers have `attention`.
        q: the query projection.
        k: the key projection.
        v: the value projection.
        qkv: one projection for queries, keys and values, in place of `q`, `k` and `v`.
        qkv_by_head: the order of the outputs of `qkv`. True: for every key head the queries that share it, then the
            key, then the value. False: all queries, then all keys, then all values.
        q_norm: a norm of the queries before the rotation (see `norms_behind_rotation`). The length of its weight tells
            whether it is over one head or over all heads.
        k_norm: a norm of the keys before the rotation, over one head or over all heads in the same way.
        centred_norms: whether `q_norm` and `k_norm` subtract the mean, as LayerNorm does.
        norms_behind_rotation: whether `q_norm` and `k_norm` come behind the rotation. They are then RMSNorms over one
            head.
        clip: the largest magnitude to which the outputs of the query, key and value projections are clipped; None: they
            are not clipped.
        interface: whether the attention passes queries and keys to transformers' attention interface. If not, they are
            taken from the projections, and attention scores are scaled by head size^-1/2.
        scaled_queries: whether the attention multiplies queries by head size^-1/2 before it passes them to the
            interface.
        query_scaling: (b, n): the attention multiplies the query at position p by 1 + b ln(1 + floor(p / n)), behind
            the rotation. It gets the positions as `position_ids`. None: queries are not scaled by position.
        rotation: the keyword argument in which the attention gets the cosines and sines of the rotation; None:
            nothing is rotated.
        rotates: an attribute of the attention that is true in the layers that rotate; None: all layers rotate.
        interleaved: whether dimensions 2m and 2m + 1 are rotated together, rather than m and m + r/2.
        half_tables: whether the tables of an interleaved rotation hold all angles once, followed by a copy of them.
        alibi: biases of the attention scores that grow with the position of the key; the attention gets them as
            `alibi`. "added": they are added to the scaled attention scores. "scaled": they are added before the
            scaling.
        single_tables: whether the tables of the rotation have r/2 columns, one for both dimensions of a pair.
        position_bias: the keyword argument in which the attention interface gets biases of the attention scores, (1 or
            documents, query heads, tokens, tokens); None: there are none.
        sinks: a parameter of the attention, (query heads,): scores of attention sinks. softmax weighs the sink of a
            head beside the keys, without the soft cap, and its probability is dropped. None: there are none.
        o: the output projection.
        output_gate: whether `q` gives, for every head, the query and then a gate of the same size, by whose sigmoid the
            attention's output is multiplied before `o`. The neurons of q are those of the query.
        attention_norm: a norm of the attention's output, before it is added to the residual.
        sum_norms: two norms, of the sum of the residual and the attention's output, and of the sum of the residual and
            the FFN's output, where the attention and the FFN return what these norms return, as in BERT. They are no
            part of the sublayers. None: the attention and the FFN return their own output.
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
        shared_expert: with `experts`, an FFN inside the FFN that every token passes, with `gate`, `up` and `down`. Its
            output is added to that of the experts.
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
    is_pair: bool = False
    counts_padding: bool = False
    first_position: int = 0
    attention: str = "self_attn"
    core: str = ""
    causal: bool = True
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
    scaled_queries: bool = False
    query_scaling: tuple[float, int] | None = None
    rotation: str | None = "position_embeddings"
    rotates: str | None = None
    interleaved: bool = False
    half_tables: bool = False
    alibi: Literal["added", "scaled"] | None = None
    single_tables: bool = False
    position_bias: str | None = None
    sinks: str | None = None
    o: str = "o_proj"
    output_gate: bool = False
    attention_norm: str | None = None
    sum_norms: tuple[str, str] | None = None
    ffn: str = "mlp"
    gate: str | None = "gate_proj"
    up: str = "up_proj"
    gate_up: str | None = None
    down: str = "down_proj"
    experts: str | None = None
    transposed_experts: bool = False
    interleaved_experts: bool = False
    clamped_swiglu: tuple[float, float] | None = None
    shared_expert: str | None = None
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
            ((self.q_norm is None) == (self.k_norm is None), "give q_norm and k_norm both, or neither"),
            (self.q_norm is None or self.interface, "q_norm and k_norm need interface=True"),
            (
                self.query_scaling is None or (self.interface and not self.centred_norms),
                "query_scaling needs interface=True and centred_norms=False",
            ),
            (
                not self.norms_behind_rotation
                or bool(self.q_norm and not self.centred_norms and self.query_scaling is None),
                "norms_behind_rotation needs q_norm, centred_norms=False and query_scaling=None",
            ),
            (
                not self.output_gate or (self.qkv is None and self.clip is None),
                "output_gate needs qkv=None and clip=None",
            ),
            (
                self.position_bias is None or (self.interface and self.q_norm is None),
                "position_bias needs interface=True and q_norm=None",
            ),
            (
                self.causal or (self.q_norm is None and self.alibi is None),
                "causal=False needs q_norm=None and alibi=None",
            ),
            (
                self.sum_norms is None
                or (self.attention_norm is None and not self.ffn and self.linear_attention is None),
                'sum_norms needs attention_norm=None, ffn="" and linear_attention=None',
            ),
            (self.interleaved or not self.half_tables, "half_tables needs interleaved=True"),
            (not (self.single_tables and self.interleaved), "single_tables needs interleaved=False"),
            (
                self.sinks is None or (self.interface and not self.centred_norms),
                "sinks needs interface=True and centred_norms=False",
            ),
            (self.experts is None or self.ffn_norm is None, "with experts, ffn_norm must be None"),
            (self.experts is not None or self.shared_expert is None, "shared_expert needs experts"),
            (
                self.experts is not None
                or not (self.transposed_experts or self.interleaved_experts or self.clamped_swiglu),
                "transposed_experts, interleaved_experts and clamped_swiglu need experts",
            ),
            (
                self.shared_expert is not None or self.shared_expert_gate is None,
                "shared_expert_gate needs shared_expert",
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
