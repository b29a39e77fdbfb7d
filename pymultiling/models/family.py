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
        own_heads: an attribute of the attention that has the number of the layer's query heads; None: all layers have
            as many as the configuration's `num_attention_heads`.
        causal: whether a token sees no tokens after itself. False: it sees all tokens of its document, as in encoders.
        linear_attention: what layers without `attention` have in its place. Such layers have neurons of the FFN only.
            The path is inside a layer. Where a linear attention is in the place of `attention`, under its name, the
            path goes into it, to a module that no other attention has. None: all layers have `attention`.
        q: the query projection.
        k: the key projection.
        v: the value projection.
        qkv: one projection for queries, keys and values, in place of `q`, `k` and `v`.
        qkv_by_head: the order of the outputs of `qkv`. True: for every key head the queries that share it, then the
            key, then the value. False: all queries, then all keys, then all values.
        qkv_blocks: with `qkv` and as many key heads as query heads, how many equal blocks its outputs have, each for
            as many heads: all queries of the block, then all values, then all keys. None: the order is `qkv_by_head`.
        kv: one projection for keys and values, in place of `k` and `v`, which gets a latent vector (multi-head latent
            attention). Its outputs are, for every head, those dimensions of the key that are not rotated, and then the
            value.
        shared_k: with `kv`, the projection whose last outputs are the other dimensions of the key, which all heads
            share. They come last in every key. They are rotated, and so are as many of the last dimensions of every
            query. Its other outputs are the latent vector, which a norm may change before it is passed to `kv`.
        regrouped: with `kv`, whether the attention puts the dimensions that it rotates from the order 0, 1, 2, 3 ...
            into the order 0, 2, ..., 1, 3, ... before the rotation.
        shared_keys: (attribute, keyword): an attribute of the attention that is true in layers that take the keys and
            values of an earlier layer, and the keyword argument in which the attention gets them, by type of layer.
            Such layers have no k and v. None: all layers have their own keys and values.
        keys_as_values: an attribute of the attention that is true in layers whose values are the keys, as `k` gives
            them. Such layers have no v, and a neuron of k that is off is off in the values too. None: there are none.
        own_value_size: whether values have another size than queries and keys. `q` then gives as many queries as the
            configuration has heads, and `o` takes as many values.
        value_scale: the factor by which the attention multiplies the output of `v`.
        v_norm: an RMSNorm of the values over one head, without a weight. A neuron of v then changes the others of its
            head. None: values have no norm.
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
        complex_tables: whether `rotation` is one table of r/2 complex numbers, whose real and imaginary parts are the
            cosines and sines. Dimensions 2m and 2m + 1 are rotated together.
        chunk: in layers that the configuration's `layer_types` calls "chunked_attention", a query sees the keys of its
            own chunk of this many tokens of the document. None: there are no chunks.
        position_bias: the keyword argument in which the attention interface gets biases of the attention scores, (1 or
            documents, query heads, tokens, tokens); None: there are none.
        sinks: a parameter of the attention, (query heads,): scores of attention sinks. softmax weighs the sink of a
            head beside the keys, without the soft cap, and its probability is dropped. Layers where it is None have no
            sinks. None: there are none.
        o: the output projection.
        output_gate: whether `q` gives, for every head, the query and then a gate of the same size, by whose sigmoid the
            attention's output is multiplied before `o`. The neurons of q are those of the query. Or the path of a
            projection that gives the gates of all heads: one for each value, or one for each head.
        gate_function: what is applied to the gates of `output_gate`, "sigmoid" or "softplus".
        attention_norm: a norm of the attention's output, before it is added to the residual.
        sum_norms: two norms, of the sum of the residual and the attention's output, and of the sum of the residual and
            the FFN's output, where the attention and the FFN return what these norms return, as in BERT. They are no
            part of the sublayers. None: the attention and the FFN return their own output.
        sums: modules that add their second argument, the residual, to what the output projection of the attention
            returns, and to what `down` returns, where the attention returns what the first one does, as in encoders
            with BERT's modules and norms before the sublayers. Without the second one, nothing is said about the FFN.
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
        expert_parts: the paths, inside the experts, of the parameters of gate, up and down, (experts * width, inputs)
            each, and of the activation, in place of gate_up_proj, down_proj and act_fn. The experts have their number
            as `num_experts`.
        clamped_swiglu: (a, c): experts compute (up + 1) gate sigmoid(a gate), where gate is at most c, and up from -c
            to c. None: they compute act(gate) up.
        scaled_expert_inputs: whether the experts get their tokens multiplied by the router's weight, all tokens once
            for each expert, with zeros where a token is not routed to it. Their outputs are added up as they are.
        shared_expert: with `experts`, an FFN inside the FFN that every token passes, with `gate`, `up` and `down`. Its
            output is added to that of the experts.
        routed_scale: with `shared_expert`, the factor by which the FFN multiplies the output of the experts before it
            adds that of the shared expert. The router's weights do not have it.
        shared_expert_in_layer: whether `shared_expert` is in the decoder layer, which adds its output to the FFN's.
        shared_expert_gate: a projection of the FFN's input to one number, by whose sigmoid the output of
            `shared_expert` is multiplied; None: it is not multiplied.
        ffn_norm: a norm of the FFN's output, before it is added to the residual.
        experts_norm: a norm inside an FFN with `experts`, of the sum of all its experts. The FFN returns what the norm
            returns. Dense layers have none. None: there is none.
        linear_ffn_norm: whether layers of linear attention have `ffn_norm` too.
        ffn_alone: whether the FFN is a module that is called with its input and nothing else.
        activation: transformers' name of the FFN's activation; None: it is read from the configuration.
        activation_parameters: the module inside the FFN that has the activation's parameters; None: it has none.
        gate_sparsity: an attribute of the FFN, s: where it is above 0, the activation gets relu(g - m - z d) in place
            of the gate g of a token. m and d are its mean and standard deviation over the neurons, and z is the
            quantile of s of the standard normal distribution. None: the activation gets the gate.
        hidden_streams: whether layers pass on several hidden states of a token, of which the model makes one behind the
            last layer, in place of `final`.
        norm_offset: what norms add to their weight before they multiply by it.

    Raises:
        ValueError: alibi or gate_function is unknown, or a combination of values is not supported.
    """

    layers: str = "layers"
    final: tuple[str, ...] = ("norm",)
    positions: bool = True
    is_pair: bool = False
    counts_padding: bool = False
    first_position: int = 0
    attention: str = "self_attn"
    core: str = ""
    own_heads: str | None = None
    causal: bool = True
    linear_attention: str | None = None
    q: str = "q_proj"
    k: str = "k_proj"
    v: str = "v_proj"
    qkv: str | None = None
    qkv_by_head: bool = False
    qkv_blocks: int | None = None
    kv: str | None = None
    shared_k: str | None = None
    regrouped: bool = False
    shared_keys: tuple[str, str] | None = None
    keys_as_values: str | None = None
    own_value_size: bool = False
    value_scale: float = 1.0
    v_norm: str | None = None
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
    position_bias: str | None = None
    sinks: str | None = None
    o: str = "o_proj"
    output_gate: bool | str = False
    gate_function: Literal["sigmoid", "softplus"] = "sigmoid"
    attention_norm: str | None = None
    sum_norms: tuple[str, str] | None = None
    sums: tuple[()] | tuple[str] | tuple[str, str] = ()
    ffn: str = "mlp"
    gate: str | None = "gate_proj"
    up: str = "up_proj"
    gate_up: str | None = None
    down: str = "down_proj"
    experts: str | None = None
    transposed_experts: bool = False
    interleaved_experts: bool = False
    expert_parts: tuple[str, str, str, str] | None = None
    clamped_swiglu: tuple[float, float] | None = None
    scaled_expert_inputs: bool = False
    shared_expert: str | None = None
    routed_scale: float = 1.0
    shared_expert_in_layer: bool = False
    shared_expert_gate: str | None = None
    ffn_norm: str | None = None
    experts_norm: str | None = None
    linear_ffn_norm: bool = True
    ffn_alone: bool = True
    activation: str | None = None
    activation_parameters: str | None = None
    gate_sparsity: str | None = None
    hidden_streams: bool = False
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
            (
                self.gate_function == "sigmoid" or (self.gate_function == "softplus" and bool(self.output_gate)),
                'gate_function must be "sigmoid", or "softplus" with output_gate',
            ),
            (not (self.backwards and self.interleaved), "backwards needs interleaved=False"),
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
            (
                not self.sums
                or (
                    self.attention_norm is None
                    and self.sum_norms is None
                    and not self.ffn
                    and not self.ffn_alone
                    and self.linear_attention is None
                ),
                'sums needs attention_norm=None, sum_norms=None, ffn="", ffn_alone=False and linear_attention=None',
            ),
            (
                not (self.shared_keys or self.keys_as_values or self.v_norm)
                or bool(self.interface and self.qkv is None and self.clip is None and self.sinks is None),
                "shared_keys, keys_as_values and v_norm need interface=True, qkv=None, clip=None and sinks=None",
            ),
            (
                not (self.own_value_size or self.value_scale != 1)
                or bool(self.interface and self.kv is None and self.qkv is None and self.clip is None),
                "own_value_size and value_scale need interface=True, kv=None, qkv=None and clip=None",
            ),
            (
                not (self.own_value_size or self.value_scale != 1)
                or not (self.shared_keys or self.keys_as_values or self.v_norm or self.output_gate),
                "own_value_size and value_scale need shared_keys, keys_as_values, v_norm and output_gate at defaults",
            ),
            (
                self.v_norm is None
                or not (self.kv or self.output_gate or self.position_bias or self.chunk or self.sum_norms),
                "with v_norm, kv, output_gate, position_bias, chunk and sum_norms are not supported",
            ),
            (
                self.gate_sparsity is None or bool(self.gate and self.experts is None and self.gate_up is None),
                "gate_sparsity needs gate, experts=None and gate_up=None",
            ),
            (
                self.keys_as_values is None or self.v_norm is not None,
                "keys_as_values needs v_norm",
            ),
            (
                self.shared_keys is None or not (self.centred_norms or self.norms_behind_rotation),
                "shared_keys needs centred_norms=False and norms_behind_rotation=False",
            ),
            (self.interleaved or not self.half_tables, "half_tables needs interleaved=True"),
            (not (self.single_tables and self.interleaved), "single_tables needs interleaved=False"),
            (
                not self.complex_tables or (self.interleaved and not self.half_tables),
                "complex_tables needs interleaved=True and half_tables=False",
            ),
            (
                self.qkv_blocks is None or (self.qkv is not None and not self.qkv_by_head and self.qkv_blocks > 0),
                "qkv_blocks needs qkv, qkv_by_head=False and a number above 0",
            ),
            ((self.kv is None) == (self.shared_k is None), "give kv and shared_k both, or neither"),
            (
                self.kv is None
                or bool(
                    self.interface and self.rotation and not self.rotates and self.qkv is None and self.clip is None
                ),
                "kv needs interface=True, a rotation in all layers, qkv=None and clip=None",
            ),
            (
                self.kv is None or not (self.q_norm or self.output_gate or self.scaled_queries or self.sinks),
                "with kv, q_norm, output_gate, scaled_queries and sinks are not supported",
            ),
            (
                not self.regrouped or (self.kv is not None and not self.interleaved),
                "regrouped needs kv and interleaved=False",
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
            (
                self.linear_ffn_norm or bool(self.linear_attention and self.ffn_norm),
                "linear_ffn_norm=False needs linear_attention and ffn_norm",
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
                self.expert_parts is None
                or bool(
                    self.experts
                    and not (
                        self.transposed_experts
                        or self.interleaved_experts
                        or self.clamped_swiglu
                        or self.scaled_expert_inputs
                    )
                ),
                "expert_parts needs experts, and no other field that says how experts store their weights",
            ),
            (
                self.routed_scale == 1 or bool(self.shared_expert and not self.shared_expert_in_layer),
                "routed_scale needs shared_expert and shared_expert_in_layer=False",
            ),
            (
                self.experts_norm is None
                or bool(self.experts and self.ffn_norm is None and not self.shared_expert_in_layer),
                "experts_norm needs experts, ffn_norm=None and shared_expert_in_layer=False",
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
