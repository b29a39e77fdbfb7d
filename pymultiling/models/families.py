"""Where each family of decoders keeps its neurons: one row a family, paths relative to a decoder layer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """The defaults are those of Llama; a row names what differs.

    `qkv` and `gate_up` are fused projections, in this order, and replace the separate ones. No `gate`: a plain FFN, act(up). `q_norm` and `k_norm` act on
    a head before the rotation. `attention_norm` and `ffn_norm` stand behind the sublayer, before the residual is added.
    A norm multiplies by its weight + `norm_offset`. `interleaved` rotations turn dimensions 2m and 2m + 1 together.
    """

    layers: str = "layers"
    attention: str = "self_attn"
    q: str = "q_proj"
    k: str = "k_proj"
    v: str = "v_proj"
    qkv: str | None = None
    q_norm: str | None = None
    k_norm: str | None = None
    o: str = "o_proj"
    attention_norm: str | None = None
    ffn: str = "mlp"
    gate: str | None = "gate_proj"
    up: str = "up_proj"
    gate_up: str | None = None
    down: str = "down_proj"
    ffn_norm: str | None = None
    norm_offset: float = 0.0
    interleaved: bool = False


# By the `model_type` of the model's configuration.
FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(),
    "qwen3": Family(q_norm="q_norm", k_norm="k_norm"),
    "gemma": Family(),
    "gemma2": Family(attention_norm="post_attention_layernorm", ffn_norm="post_feedforward_layernorm", norm_offset=1.0),
    "gemma3_text": Family(
        q_norm="q_norm",
        k_norm="k_norm",
        attention_norm="post_attention_layernorm",
        ffn_norm="post_feedforward_layernorm",
        norm_offset=1.0,
    ),
    "phi3": Family(qkv="qkv_proj", gate_up="gate_up_proj"),
    "starcoder2": Family(gate=None, up="c_fc", down="c_proj"),
}
