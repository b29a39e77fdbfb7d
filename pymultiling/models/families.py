"""The registry of the supported families of decoders, with one entry for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from pymultiling.errors import UnsupportedModel
from pymultiling.models.family import Family
from pymultiling.models.pretrained import class_name, pretrained
from pymultiling.models.unwrap import refuse_peft

if TYPE_CHECKING:
    from torch import nn
    from transformers import (
        BertConfig,
        BloomConfig,
        CohereConfig,
        Ernie4_5_MoeConfig,
        Exaone4Config,
        FalconConfig,
        GptOssConfig,
        Ministral3Config,
        MT5Config,
        OlmoConfig,
        OlmoeConfig,
        PhiConfig,
        PreTrainedConfig,
        RobertaConfig,
        StableLmConfig,
        T5Config,
        XLMRobertaConfig,
    )

# Each function takes the configuration class of its own kind of model.
FamilyFunction: TypeAlias = Callable[[Any], Family]

# Norms of queries and keys, and of the outputs of both sublayers.
_OLMO2 = Family(
    q_norm="q_norm",
    k_norm="k_norm",
    attention_norm="post_attention_layernorm",
    ffn_norm="post_feedforward_layernorm",
)


# Layers of linear attention among those of attention, whose output passes a gate.
_QWEN3_5 = Family(linear_attention="linear_attn", q_norm="q_norm", k_norm="k_norm", norm_offset=1.0, output_gate=True)
_QWEN3_NEXT = replace(
    _QWEN3_5, experts="experts", shared_expert="shared_expert", shared_expert_gate="shared_expert_gate"
)


def _bert(config: BertConfig | RobertaConfig | XLMRobertaConfig) -> Family:
    if config.is_decoder:
        raise UnsupportedModel(
            f"this {config.model_type} is a decoder (is_decoder in its configuration): only encoders of this family "
            "are supported"
        )
    return Family(
        layers="encoder.layer",
        final=(),
        attention="attention",
        core="self",
        causal=False,
        q="self.query",
        k="self.key",
        v="self.value",
        rotation=None,
        o="output.dense",
        sum_norms=("attention.output.LayerNorm", "output.LayerNorm"),
        ffn="",
        gate=None,
        up="intermediate.dense",
        down="output.dense",
        ffn_alone=False,
    )


def _t5(config: T5Config | MT5Config) -> Family:
    return Family(
        is_pair=True,
        layers="block",
        final=("final_layer_norm",),
        positions=False,
        attention="layer.0.SelfAttention",
        causal=False,
        q="q",
        k="k",
        v="v",
        rotation=None,
        position_bias="position_bias",
        o="o",
        ffn="layer.1.DenseReluDense",
        gate="wi_0" if config.is_gated_act else None,
        up="wi_1" if config.is_gated_act else "wi",
        down="wo",
        activation=config.dense_act_fn,
    )


def _roberta(config: RobertaConfig | XLMRobertaConfig) -> Family:
    # Positions are counted behind that of padding, which is the number of its token.
    return replace(_bert(config), first_position=cast("int", config.pad_token_id) + 1)


def _bloom(config: BloomConfig) -> Family:
    if config.pretraining_tp > 1 and config.slow_but_exact:
        raise UnsupportedModel(
            "this bloom computes projections in pieces, without calling their modules: set config.slow_but_exact = "
            "False and load it again, the results agree to rounding"
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


def _cohere(config: CohereConfig) -> Family:
    return Family(
        q_norm="q_norm" if config.use_qk_norm else None,
        k_norm="k_norm" if config.use_qk_norm else None,
        centred_norms=True,
        interleaved=True,
    )


def _ernie4_5_moe(config: Ernie4_5_MoeConfig) -> Family:
    return Family(
        interleaved=True,
        half_tables=True,
        experts="experts",
        shared_expert="shared_experts" if config.moe_num_shared_experts else None,
    )


def _exaone4(config: Exaone4Config) -> Family:
    return replace(_OLMO2, rotates=None if config.sliding_window is None else "is_sliding")


def _falcon(config: FalconConfig) -> Family:
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


def _gpt_oss(config: GptOssConfig) -> Family:
    return Family(
        single_tables=True,
        sinks="sinks",
        experts="experts",
        transposed_experts=True,
        interleaved_experts=True,
        clamped_swiglu=(config.swiglu_alpha, config.swiglu_limit),
    )


def _ministral3(config: Ministral3Config) -> Family:
    rotation = cast("dict[str, Any]", config.rope_parameters)
    return Family(query_scaling=(rotation["llama_4_scaling_beta"], rotation["original_max_position_embeddings"]))


def _olmo(config: OlmoConfig) -> Family:
    return Family(clip=config.clip_qkv)


def _olmoe(config: OlmoeConfig) -> Family:
    if config.clip_qkv is not None:
        raise UnsupportedModel(
            f"this olmoe clips queries and keys behind their norms, at {config.clip_qkv}, which is not supported: use "
            "a model whose configuration has no clip_qkv"
        )
    return Family(q_norm="q_norm", k_norm="k_norm", experts="experts")


def _phi(config: PhiConfig) -> Family:
    return Family(
        final=("final_layernorm",),
        q_norm="q_layernorm" if config.qk_layernorm else None,
        k_norm="k_layernorm" if config.qk_layernorm else None,
        centred_norms=True,
        o="dense",
        gate=None,
        up="fc1",
        down="fc2",
    )


def _stablelm(config: StableLmConfig) -> Family:
    return Family(
        q_norm="q_layernorm" if config.qk_layernorm else None,
        k_norm="k_layernorm" if config.qk_layernorm else None,
        centred_norms=True,
    )


# The keys are the `model_type` of the configuration. Where the entry depends on the configuration, it is a function
# of it.
FAMILIES: dict[str, Family | FamilyFunction] = {
    "llama": Family(),
    "mistral": Family(),
    "ministral": Family(),
    "ministral3": _ministral3,
    "seed_oss": Family(),
    "cwm": Family(),
    "hunyuan_v1_dense": Family(q_norm="query_layernorm", k_norm="key_layernorm", norms_behind_rotation=True),
    "arcee": Family(gate=None),
    "nemotron": Family(gate=None),
    "apertus": Family(q_norm="q_norm", k_norm="k_norm", gate=None, activation_parameters="act_fn"),
    "qwen2": Family(),
    "qwen3": Family(q_norm="q_norm", k_norm="k_norm"),
    "gemma": Family(),
    "gemma2": Family(attention_norm="post_attention_layernorm", ffn_norm="post_feedforward_layernorm", norm_offset=1.0),
    "gemma3_text": replace(_OLMO2, norm_offset=1.0),
    "mixtral": Family(experts="experts"),
    "phimoe": Family(experts="experts"),
    "qwen2_moe": Family(experts="experts", shared_expert="shared_expert", shared_expert_gate="shared_expert_gate"),
    "ernie4_5_moe": _ernie4_5_moe,
    "qwen3_moe": Family(q_norm="q_norm", k_norm="k_norm", experts="experts"),
    "qwen3_5_text": _QWEN3_5,
    "qwen3_5_moe_text": _QWEN3_NEXT,
    "qwen3_next": _QWEN3_NEXT,
    "gpt_oss": _gpt_oss,
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
    "glm4": Family(
        interleaved=True,
        half_tables=True,
        gate_up="gate_up_proj",
        attention_norm="post_self_attn_layernorm",
        ffn_norm="post_mlp_layernorm",
    ),
    "helium": Family(interleaved=True, half_tables=True),
    "ernie4_5": Family(interleaved=True, half_tables=True),
    "exaone4": _exaone4,
    "stablelm": _stablelm,
    # Its residual_multiplier is applied to the output of a sublayer; importance is the change of the output before
    # that.
    "granite": Family(),
    "smollm3": Family(rotates="use_rope"),
    "olmo": _olmo,
    "olmo2": _OLMO2,
    "olmo3": _OLMO2,
    "olmoe": _olmoe,
    "bert": _bert,
    "roberta": _roberta,
    "t5": _t5,
    "mt5": _t5,
    "m2m_100": Family(
        is_pair=True,
        counts_padding=True,
        final=("layer_norm",),
        positions=False,
        causal=False,
        rotation=None,
        o="out_proj",
        ffn="",
        gate=None,
        up="fc1",
        down="fc2",
        ffn_alone=False,
    ),
    "modernbert": Family(
        final=("final_norm",),
        attention="attn",
        causal=False,
        qkv="Wqkv",
        o="Wo",
        gate_up="Wi",
        down="Wo",
    ),
    "xlm-roberta": _roberta,
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


def register_family(model_type: str, family: Family | FamilyFunction, *, replace: bool = False) -> None:
    """Adds a family of models, so that its models can be measured.

        pml.register_family("mymodel", pml.Family(attention="attn", gate=None, up="fc1", down="fc2"))

    Check the result with `pymultiling doctor --model DIR`. It compares the importance of some neurons with the effect
    of setting them to zero.

    Args:
        model_type: the `model_type` of the models' configuration.
        family: where the neurons are, or a function that returns this for a configuration.
        replace: whether an existing entry for `model_type` may be replaced.

    Raises:
        ValueError: `family` is neither a Family nor a function; or `model_type` is known and `replace` is False.
    """
    if not isinstance(family, Family) and (isinstance(family, type) or not callable(family)):
        raise ValueError(f"family must be a pymultiling.Family or a function that returns one, got {family!r}")
    if model_type in FAMILIES and not replace:
        raise ValueError(f"the family {model_type!r} is registered already: pass replace=True to replace it")
    FAMILIES[model_type] = family


def family_of(model: nn.Module) -> Family:
    """Returns the family of a model, selected by the model_type of its configuration, or of that of its text decoder.

    Raises:
        UnsupportedModel: the family is not known.
    """
    refuse_peft(model)
    config = pretrained(model).config.get_text_config()
    model_type: str = config.model_type
    if model_type not in FAMILIES:
        raise UnsupportedModel(
            f"{class_name(model)} (model_type {model_type!r}) is of no known family: looked for one of "
            f"{', '.join(FAMILIES)}; say where its neurons are with pymultiling.register_family({model_type!r}, "
            "pymultiling.Family(...)), whose defaults are Llama's (pymultiling/models/families.py has the others); on "
            "the command line in a file for --families"
        )
    return _entry_of(config)


def known_family(config: PreTrainedConfig) -> Family | None:
    """Returns the family of a configuration of text; None where none is known, or where its entry refuses it."""
    try:
        return _entry_of(config) if config.model_type in FAMILIES else None
    except UnsupportedModel:
        return None


def _entry_of(config: PreTrainedConfig) -> Family:
    entry = FAMILIES[config.model_type]
    return entry if isinstance(entry, Family) else entry(config)
