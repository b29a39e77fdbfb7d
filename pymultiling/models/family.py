"""What is said of a family of decoders: where its neurons are, and what its attention does with them."""

from __future__ import annotations

from dataclasses import dataclass

from pymultiling.errors import UnsupportedModel


@dataclass(frozen=True)
class Family:
    """Where a family of decoders keeps its neurons, and what its attention does with them.

    The defaults are those of Llama: name what differs. `register_family` takes it. `layers` and `final` are paths inside
    the base model (the model without its head); `attention`, `ffn` and the norms behind them are inside a decoder layer,
    "" being the layer itself; all others are inside the attention or the FFN.

    Attributes:
        layers: the list of decoder layers.
        final: what comes after the last layer and before the head; of these, what a model sets to None is left out.
        positions: the base model takes `position_ids`.
        attention: the attention.
        q, k, v: its projections.
        qkv: one projection for all three, in place of them.
        qkv_by_head: of `qkv`: its outputs are, for every key head, the queries that share it, the key and the value. If not,
            all queries, all keys and all values.
        q_norm, k_norm: norms of queries and keys before the rotation, over a head, or over all of them (by the length of
            the norm's weight).
        centred_norms: these subtract the mean, as LayerNorm does.
        clip: largest magnitude of queries, keys and values as projected.
        interface: the attention hands queries and keys to transformers' attention interface. If not, they are taken from
            the projections, scaled by head size^-1/2.
        scaled_queries: the attention scales queries by head size^-1/2 before it hands them over.
        rotation: the keyword by which the attention gets the rotation's cosines and sines; None: nothing rotates.
        rotates: an attribute of the attention that is set in the layers that rotate; None: all do.
        interleaved: dimensions 2m and 2m + 1 turn together, not m and m + r/2.
        half_tables: the tables of an interleaved rotation hold the angles one after the other, then again.
        alibi: biases of the scores that grow with the key's position, which the attention gets as `alibi`: "added" to the
            scaled scores, or "scaled" with them.
        o: the output projection.
        attention_norm: a norm behind the attention, before the residual is added.
        ffn: the FFN.
        gate, up, down: its projections; no `gate`: a plain FFN, act(up).
        gate_up: one projection for gate and up, in this order, in place of them.
        experts: the module of all experts of an FFN that is a mixture of them, in place of its projections; its
            parameters are gate_up_proj (experts, 2 width, inputs) and down_proj (experts, inputs, width).
        ffn_norm: a norm behind the FFN, before the residual is added.
        ffn_alone: the FFN is a module that is called with its input and nothing else.
        activation: transformers' name of the FFN's activation; None: the configuration says it.
        norm_offset: norms multiply by their weight + this.
    """

    layers: str = "layers"
    final: tuple[str, ...] = ("norm",)
    positions: bool = True
    attention: str = "self_attn"
    q: str = "q_proj"
    k: str = "k_proj"
    v: str = "v_proj"
    qkv: str | None = None
    qkv_by_head: bool = False
    q_norm: str | None = None
    k_norm: str | None = None
    centred_norms: bool = False
    clip: float | None = None
    interface: bool = True
    scaled_queries: bool = False
    rotation: str | None = "position_embeddings"
    rotates: str | None = None
    interleaved: bool = False
    half_tables: bool = False
    alibi: str | None = None
    o: str = "o_proj"
    attention_norm: str | None = None
    ffn: str = "mlp"
    gate: str | None = "gate_proj"
    up: str = "up_proj"
    gate_up: str | None = None
    down: str = "down_proj"
    experts: str | None = None
    ffn_norm: str | None = None
    ffn_alone: bool = True
    activation: str | None = None
    norm_offset: float = 0.0

    def __post_init__(self) -> None:
        for fits, rule in (
            (self.alibi in (None, "added", "scaled"), 'alibi is "added", "scaled" or None'),
            (
                self.alibi is None or not (self.interface or self.rotation),
                "alibi goes with interface=False, rotation=None",
            ),
            ((self.q_norm is None) == (self.k_norm is None), "q_norm and k_norm go together"),
            (self.q_norm is None or self.interface, "q_norm and k_norm go with interface=True"),
            (self.interleaved or not self.half_tables, "half_tables go with interleaved=True"),
            (self.experts is None or self.ffn_norm is None, "experts go without ffn_norm"),
        ):
            if not fits:
                raise ValueError(f"a family of this kind is not supported: {rule}")


def activation_name(config, family: Family) -> str:
    """transformers' name of the FFN's activation."""
    names = ("hidden_activation", "hidden_act", "activation_function", "activation")
    found = family.activation or next((value for name in names if (value := getattr(config, name, None))), None)
    if found is None:
        raise UnsupportedModel(
            f"the configuration does not name the FFN's activation: looked for one of {', '.join(names)}; give it to "
            "pymultiling.Family as activation"
        )
    return found
