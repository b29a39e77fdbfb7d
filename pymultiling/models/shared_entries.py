"""Entries and parts of them that dense families share with mixtures of experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from pymultiling.models.family import Family

if TYPE_CHECKING:
    from transformers import (
        AXK1Config,
        DeepseekV2Config,
        DeepseekV3Config,
        Glm4MoeLiteConfig,
        MiniCPM3Config,
        Ministral3Config,
        Mistral4Config,
        YoutuConfig,
    )

    DeepseekConfig: TypeAlias = DeepseekV3Config | Glm4MoeLiteConfig | Mistral4Config | AXK1Config
    LatentConfig: TypeAlias = DeepseekConfig | DeepseekV2Config | MiniCPM3Config | YoutuConfig

# Each function takes the configuration class of its own kind of model.
FamilyFunction: TypeAlias = Callable[[Any], Family]

# Norms of queries and keys, and of the outputs of both sublayers.
OLMO2 = Family(
    q_norm="q_norm",
    k_norm="k_norm",
    attention_norm="post_attention_layernorm",
    ffn_norm="post_feedforward_layernorm",
)

# Layers of linear attention among those of attention, whose output passes a gate.
QWEN3_5 = Family(linear_attention="linear_attn", q_norm="q_norm", k_norm="k_norm", norm_offset=1.0, output_gate=True)


def latent_attention(config: LatentConfig) -> Family:
    """Multi-head latent attention: keys and values from one latent vector, and a rotated key that all heads share."""
    return Family(
        q="q_proj" if config.q_lora_rank is None else "q_b_proj", kv="kv_b_proj", shared_k="kv_a_proj_with_mqa"
    )


def youtu(config: DeepseekConfig | YoutuConfig) -> Family:
    """Multi-head latent attention, whose rotation may put dimensions into another order first."""
    return replace(latent_attention(config), regrouped=bool(config.rope_interleave))


def query_scaling(config: Ministral3Config | Mistral4Config) -> tuple[float, int]:
    """Returns the numbers of `Family.query_scaling`."""
    rotation = cast("dict[str, Any]", config.rope_parameters)
    return rotation["llama_4_scaling_beta"], rotation["original_max_position_embeddings"]
