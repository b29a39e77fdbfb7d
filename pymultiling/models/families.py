"""Every family of decoders that is known: one row a family."""

from __future__ import annotations

from collections.abc import Callable

from pymultiling.errors import UnsupportedModel
from pymultiling.models.family import Family


def _bloom(config) -> Family:
    if config.pretraining_tp > 1 and config.slow_but_exact:
        raise UnsupportedModel(
            "this bloom computes projections in pieces, past their modules: set config.slow_but_exact = False and load it "
            "again, the results agree to rounding"
        )
    return Family(
        layers="h",
        final=("ln_f",),
        positions=False,
        attention="self_attention",
        qkv="query_key_value",
        qkv_by_head=True,
        interface=False,
        rotation=None,
        alibi="added",
        o="dense",
        gate=None,
        up="dense_h_to_4h",
        down="dense_4h_to_h",
        ffn_alone=False,
        activation="gelu_pytorch_tanh",
    )


def _cohere(config) -> Family:
    norms = {"q_norm": "q_norm", "k_norm": "k_norm"} if config.use_qk_norm else {}
    return Family(**norms, centred_norms=True, interleaved=True)


def _falcon(config) -> Family:
    if config.alibi and config._attn_implementation == "eager":
        raise UnsupportedModel(
            "transformers' eager attention of Falcon adds the biases of ALiBi twice: load the model with "
            "attn_implementation='sdpa'"
        )
    return Family(
        layers="h",
        final=("ln_f",),
        attention="self_attention",
        qkv="query_key_value",
        qkv_by_head=True,
        interface=False,
        rotation=None if config.alibi else "position_embeddings",
        alibi="scaled" if config.alibi else None,
        o="dense",
        gate=None,
        up="dense_h_to_4h",
        down="dense_4h_to_h",
    )


def _olmo(config) -> Family:
    return Family(clip=config.clip_qkv)


def _olmoe(config) -> Family:
    if config.clip_qkv is not None:
        raise UnsupportedModel(
            f"this olmoe clips queries and keys behind their norms, at {config.clip_qkv}, which is not supported: looked for "
            "one whose configuration has no clip_qkv"
        )
    return Family(q_norm="q_norm", k_norm="k_norm", experts="experts")


def _phi(config) -> Family:
    norms = {"q_norm": "q_layernorm", "k_norm": "k_layernorm"} if config.qk_layernorm else {}
    return Family(**norms, centred_norms=True, final=("final_layernorm",), o="dense", gate=None, up="fc1", down="fc2")


def _stablelm(config) -> Family:
    norms = {"q_norm": "q_layernorm", "k_norm": "k_layernorm"} if config.qk_layernorm else {}
    return Family(**norms, centred_norms=True)


# By the `model_type` of the model's configuration; a function of the configuration where the row depends on it.
FAMILIES: dict[str, Family | Callable[..., Family]] = {
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
    "mixtral": Family(experts="experts"),
    "qwen3_moe": Family(q_norm="q_norm", k_norm="k_norm", experts="experts"),
    "phi3": Family(qkv="qkv_proj", gate_up="gate_up_proj"),
    "starcoder2": Family(gate=None, up="c_fc", down="c_proj"),
    "gpt2": Family(
        layers="h",
        final=("ln_f",),
        attention="attn",
        qkv="c_attn",
        rotation=None,
        o="c_proj",
        gate=None,
        up="c_fc",
        down="c_proj",
    ),
    "gpt_neox": Family(
        final=("final_layer_norm",),
        attention="attention",
        qkv="query_key_value",
        qkv_by_head=True,
        o="dense",
        gate=None,
        up="dense_h_to_4h",
        down="dense_4h_to_h",
    ),
    "bloom": _bloom,
    "opt": Family(
        layers="decoder.layers",
        final=("decoder.final_layer_norm", "decoder.project_out"),
        scaled_queries=True,
        rotation=None,
        o="out_proj",
        ffn="",
        gate=None,
        up="fc1",
        down="fc2",
        ffn_alone=False,
    ),
    "falcon": _falcon,
    "phi": _phi,
    "cohere": _cohere,
    "cohere2": Family(interleaved=True, rotates="sliding_window"),
    "glm": Family(interleaved=True, half_tables=True, gate_up="gate_up_proj"),
    "stablelm": _stablelm,
    "granite": Family(),  # its residual_multiplier acts behind the sublayers, whose own change is measured
    "smollm3": Family(rotates="use_rope"),
    "olmo": _olmo,
    "olmo2": Family(
        q_norm="q_norm",
        k_norm="k_norm",
        attention_norm="post_attention_layernorm",
        ffn_norm="post_feedforward_layernorm",
    ),
    "olmoe": _olmoe,
    "xglm": Family(
        final=("layer_norm",),
        interface=False,
        rotation=None,
        o="out_proj",
        ffn="",
        gate=None,
        up="fc1",
        down="fc2",
        ffn_alone=False,
    ),
}


def register_family(model_type: str, family: Family | Callable[..., Family], *, replace: bool = False) -> None:
    """Makes models of another kind measurable: says where they keep their neurons.

        pml.register_family("mymodel", pml.Family(attention="attn", gate=None, up="fc1", down="fc2"))

    Then run `pymultiling doctor --model DIR`, which compares importance with neurons that it really sets to zero.

    Args:
        model_type: of the model's configuration.
        family: where its neurons are; or a function that takes a configuration and gives that.
        replace: also where the family is known.

    Raises:
        ValueError: what was given is no family; the family is known, and is not to be replaced.
    """
    if not isinstance(family, Family) and (isinstance(family, type) or not callable(family)):
        raise ValueError(f"looked for a pymultiling.Family, or a function that gives one, got {family!r}")
    if model_type in FAMILIES and not replace:
        raise ValueError(f"the family {model_type!r} is known: give replace=True to put another in its place")
    FAMILIES[model_type] = family


def family_of(model) -> Family:
    """The family of a model, by its configuration's model_type.

    Raises:
        UnsupportedModel: it is of none that is known.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in FAMILIES:
        raise UnsupportedModel(
            f"{type(model).__name__} (model_type {kind!r}) is of no known family: looked for one of "
            f"{', '.join(FAMILIES)}; say where its neurons are with pymultiling.register_family({kind!r}, "
            "pymultiling.Family(...)), whose defaults are Llama's (pymultiling/models/families.py has the others); on the command line "
            "in a file for --families"
        )
    row = FAMILIES[kind]
    return row if isinstance(row, Family) else row(config)
