"""The entries of families whose FFNs are mixtures of experts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from pymultiling.errors import UnsupportedModel
from pymultiling.models.family import Family
from pymultiling.models.shared_entries import OLMO2, QWEN3_5, FamilyFunction, latent_attention, query_scaling, youtu

if TYPE_CHECKING:
    from transformers import (
        AXK1Config,
        Cohere2MoeConfig,
        DbrxConfig,
        DeepseekV2Config,
        Ernie4_5_MoeConfig,
        Glm4MoeConfig,
        GptOssConfig,
        GraniteMoeSharedConfig,
        GraniteMoeSWAConfig,
        LagunaConfig,
        Llama4TextConfig,
        MiMoV2FlashConfig,
        Mistral4Config,
        OlmoeConfig,
    )
    from transformers.models.dbrx.configuration_dbrx import DbrxAttentionConfig, DbrxFFNConfig

    from pymultiling.models.shared_entries import DeepseekConfig

# As in Granite, residual_multiplier is applied behind what importance measures.
_GRANITEMOE = Family(ffn="block_sparse_moe", experts="experts")

_DOTS1 = Family(q_norm="q_norm", k_norm="k_norm", experts="experts", shared_expert="shared_experts")

_QWEN3_NEXT = replace(
    QWEN3_5, experts="experts", shared_expert="shared_expert", shared_expert_gate="shared_expert_gate"
)


def _axk1(config: AXK1Config) -> Family:
    return replace(_deepseek_v3(config), experts_norm="post_mlp_layernorm")


def _cohere2_moe(config: Cohere2MoeConfig) -> Family:
    has_shared = config.num_shared_experts > 0
    if has_shared and config.shared_expert_combination_strategy != "sum":
        raise UnsupportedModel(
            "this cohere2_moe divides the sum of its experts and its shared expert by 2, which is not supported: use a "
            "model whose shared_expert_combination_strategy is 'sum'"
        )
    return Family(
        interleaved=True,
        rotates=("sliding_window", "force_rope"),
        experts="experts",
        shared_expert="shared_experts" if has_shared else None,
    )


def _dbrx(config: DbrxConfig) -> Family:
    attention, ffn = cast("DbrxAttentionConfig", config.attn_config), cast("DbrxFFNConfig", config.ffn_config)
    return Family(
        layers="blocks",
        final=("norm_f",),
        attention="norm_attn_norm.attn",
        qkv="Wqkv",
        clip=attention.clip_qkv,
        o="out_proj",
        ffn="ffn",
        experts="experts",
        expert_parts=("mlp.w1", "mlp.v1", "mlp.w2", "mlp.activation_fn"),
        activation=cast("dict[str, str]", ffn.ffn_act_fn).get("name", "silu"),
    )


def _deepseek_v2(config: DeepseekV2Config) -> Family:
    return replace(
        latent_attention(config),
        interleaved=True,
        complex_tables=True,
        experts="experts",
        shared_expert="shared_experts",
    )


def _deepseek_v3(config: DeepseekConfig) -> Family:
    return replace(youtu(config), experts="experts", shared_expert="shared_experts")


def _ernie4_5_moe(config: Ernie4_5_MoeConfig) -> Family:
    return Family(
        interleaved=True,
        half_tables=True,
        experts="experts",
        shared_expert="shared_experts" if config.moe_num_shared_experts else None,
    )


def _glm4_moe(config: Glm4MoeConfig) -> Family:
    return _DOTS1 if config.use_qk_norm else replace(_DOTS1, q_norm=None, k_norm=None)


def _gpt_oss(config: GptOssConfig) -> Family:
    # transformers 5.17 has no fields for these numbers, and its code has those of the published models.
    has_fields = hasattr(type(config), "swiglu_alpha")
    return Family(
        single_tables=True,
        sinks="sinks",
        experts="experts",
        transposed_experts=True,
        interleaved_experts=True,
        clamped_swiglu=(config.swiglu_alpha, config.swiglu_limit) if has_fields else (1.702, 7.0),
    )


def _granitemoe_swa(config: GraniteMoeSWAConfig) -> Family:
    return replace(_granitemoeshared(config), sinks="sinks")


def _granitemoeshared(config: GraniteMoeSharedConfig | GraniteMoeSWAConfig) -> Family:
    return replace(
        _GRANITEMOE,
        gate_up="input_linear",
        down="output_linear",
        shared_expert="shared_mlp" if config.shared_intermediate_size else None,
        shared_expert_in_layer=config.shared_intermediate_size > 0,
    )


def _laguna(config: LagunaConfig) -> Family:
    return replace(
        _DOTS1,
        own_heads="num_heads",
        output_gate="g_proj",
        gate_function="softplus",
        routed_scale=config.moe_routed_scaling_factor,
    )


def _llama4(config: Llama4TextConfig) -> Family:
    norm = "qk_norm" if config.use_qk_norm else None
    return Family(
        q_norm=norm,
        k_norm=norm,
        norms_behind_rotation=config.use_qk_norm,
        query_scaling=(config.attn_scale, config.floor_scale) if config.attn_temperature_tuning else None,
        query_scaling_unrotated=config.attn_temperature_tuning,
        rotates="use_rope",
        interleaved=True,
        complex_tables=True,
        chunk=config.attention_chunk_size,
        ffn="feed_forward",
        experts="experts",
        transposed_experts=True,
        scaled_expert_inputs=True,
        shared_expert="shared_expert",
    )


def _mimo_v2_flash(config: MiMoV2FlashConfig) -> Family:
    scale = config.attention_value_scale
    return Family(own_value_size=True, value_scale=1.0 if scale is None else scale, sinks="sinks", experts="experts")


def _mistral4(config: Mistral4Config) -> Family:
    return replace(_deepseek_v3(config), query_scaling=query_scaling(config))


def _olmoe(config: OlmoeConfig) -> Family:
    if config.clip_qkv is not None:
        raise UnsupportedModel(
            f"this olmoe clips queries and keys behind their norms, at {config.clip_qkv}, which is not supported: use "
            "a model whose configuration has no clip_qkv"
        )
    return Family(q_norm="q_norm", k_norm="k_norm", experts="experts")


# The keys are the `model_type` of the configuration, as in pymultiling/models/families.py.
EXPERT_FAMILIES: dict[str, Family | FamilyFunction] = {
    "llama4_text": _llama4,
    "mistral4": _mistral4,
    "hunyuan_v1_moe": Family(
        q_norm="query_layernorm",
        k_norm="key_layernorm",
        norms_behind_rotation=True,
        experts="experts",
        shared_expert="shared_mlp",
    ),
    "mixtral": Family(experts="experts"),
    "flex_olmo": replace(OLMO2, experts="experts"),
    "afmoe": Family(
        q_norm="q_norm",
        k_norm="k_norm",
        rotates="is_local_attention",
        output_gate="gate_proj",
        attention_norm="post_attention_layernorm",
        experts="experts",
        shared_expert="shared_experts",
        ffn_norm="post_mlp_layernorm",
    ),
    "phimoe": Family(experts="experts"),
    "qwen2_moe": Family(experts="experts", shared_expert="shared_expert", shared_expert_gate="shared_expert_gate"),
    "ernie4_5_moe": _ernie4_5_moe,
    "qwen3_moe": Family(q_norm="q_norm", k_norm="k_norm", experts="experts"),
    "mimo_v2_flash": _mimo_v2_flash,
    "minimax": Family(linear_attention="self_attn.output_gate", experts="experts"),
    "minimax_m2": Family(q_norm="q_norm", k_norm="k_norm", experts="experts"),
    "dots1": _DOTS1,
    "exaone_moe": replace(_DOTS1, rotates="is_sliding"),
    "qwen3_5_moe_text": _QWEN3_NEXT,
    "qwen3_next": _QWEN3_NEXT,
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _deepseek_v3,
    "glm4_moe_lite": _deepseek_v3,
    "gpt_oss": _gpt_oss,
    "cohere2_moe": _cohere2_moe,
    "glm4_moe": _glm4_moe,
    "granitemoe": _GRANITEMOE,
    "granitemoeshared": _granitemoeshared,
    "granitemoe_swa": _granitemoe_swa,
    "olmoe": _olmoe,
    "solar_open": Family(experts="experts", shared_expert="shared_experts"),
    "hy_v3": _DOTS1,
    "mellum": Family(q_norm="q_norm", k_norm="k_norm", experts="experts"),
    "laguna": _laguna,
    "kolibri1": replace(
        _DOTS1, rotates="is_sliding", attention_norm="post_self_attn_layernorm", ffn_norm="post_mlp_layernorm"
    ),
    "flint": replace(_DOTS1, rotates="sliding_window", sinks="sinks", shared_expert="shared_expert"),
    "aria_text": Family(experts="experts", transposed_experts=True, shared_expert="shared_experts"),
    "axk1": _axk1,
    "dbrx": _dbrx,
}
