"""Tiny random models of every supported family, and documents for them."""

import copy
from unittest import SkipTest

import torch
import transformers
from packaging.version import Version
from transformers.models.hunyuan_v1_dense import modeling_hunyuan_v1_dense as hunyuan

from pymultiling import SITES, NeuronSet
from tests.support.anatomy import base_of, layer_sizes, layers_of, sizes, zero_neuron

VOCABULARY_SIZE = 61
SHAPE = dict(
    vocab_size=VOCABULARY_SIZE,
    hidden_size=32,
    intermediate_size=37,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=None,
    tie_word_embeddings=False,
)

# Parameters of a rotation of half of each head.
PARTIAL = dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5)

# Implementations of experts other than "eager" have no float64, and need rows whose size is a multiple of 16 bytes.
EXPERTS = dict(experts_implementation="eager", intermediate_size=16)

# {name: (prefix of transformers' classes, differences from SHAPE)}. Sliding windows are shorter than the documents.
MODELS = {
    "llama": ("Llama", dict(head_dim=12, attention_bias=True, mlp_bias=True)),
    "llama-one-head": ("Llama", dict(num_attention_heads=1, num_key_value_heads=1, head_dim=6)),
    "llama-yarn": (  # its tables are cosines and sines times a factor
        "Llama",
        dict(rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=8.0, original_max_position_embeddings=8)),
    ),
    "llama-large-key-bias": ("Llama", dict(attention_bias=True)),
    "mistral": ("Mistral", dict(head_dim=8, sliding_window=4)),
    "qwen2": ("Qwen2", dict(rope_parameters=dict(rope_type="default", rope_theta=1e6))),
    "qwen2-sliding": ("Qwen2", dict(use_sliding_window=True, sliding_window=3, max_window_layers=1)),
    "qwen3": ("Qwen3", dict(head_dim=16)),
    "qwen3-bias": ("Qwen3", dict(head_dim=8, attention_bias=True)),
    "gemma": ("Gemma", dict(head_dim=16, num_key_value_heads=1)),
    "gemma2": ("Gemma2", dict(head_dim=8, sliding_window=4, attn_logit_softcapping=2.0, query_pre_attn_scalar=5)),
    "gemma2-bias": ("Gemma2", dict(head_dim=8, attention_bias=True, sliding_window=4)),
    "gemma3_text": (
        "Gemma3",
        dict(head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"]),
    ),
    "phi3": ("Phi3", dict(sliding_window=5)),
    "phi3-partial-rotary": ("Phi3", dict(rope_parameters=dict(PARTIAL))),
    "starcoder2": ("Starcoder2", dict(sliding_window=4)),  # a plain FFN, biases everywhere
    "gpt2": ("GPT2", dict(n_inner=37)),
    "gpt2-other-scales": ("GPT2", dict(n_inner=37, scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False)),
    "gpt_neox": ("GPTNeoX", dict(rope_parameters=dict(PARTIAL))),
    "gpt_neox-sequential": ("GPTNeoX", dict(use_parallel_residual=False, attention_bias=False)),
    "opt": ("OPT", dict(ffn_dim=37)),
    "opt-post-norm": ("OPT", dict(ffn_dim=37, do_layer_norm_before=False, word_embed_proj_dim=24)),
    "phi": ("Phi", dict(rope_parameters=dict(PARTIAL))),
    "phi-norms": ("Phi", dict(rope_parameters=dict(PARTIAL), qk_layernorm=True)),
    "cohere": ("Cohere", dict(attention_bias=True)),
    "cohere-norms": ("Cohere", dict(use_qk_norm=True)),
    "cohere2": ("Cohere2", dict(sliding_window=4, layer_types=["sliding_attention", "full_attention"])),
    "glm": ("Glm", dict(head_dim=8, rope_parameters=dict(PARTIAL))),
    "stablelm": ("StableLm", dict(use_qkv_bias=True, rope_parameters=dict(PARTIAL))),
    "stablelm-norms": (
        "StableLm",
        dict(qk_layernorm=True, use_parallel_residual=True, rope_parameters=dict(PARTIAL)),
    ),
    "granite": ("Granite", dict(attention_multiplier=0.3, residual_multiplier=0.22, embedding_multiplier=2.0)),
    "smollm3": ("SmolLM3", dict(no_rope_layers=[1, 0])),
    "bloom": ("Bloom", {}),
    "bloom-three-heads": ("Bloom", dict(hidden_size=30, num_attention_heads=3)),  # 10^-1/2 is not exact in binary
    "falcon": ("Falcon", dict(ffn_hidden_size=37)),  # one key head
    "falcon-new": ("Falcon", dict(ffn_hidden_size=37, new_decoder_architecture=True, num_kv_heads=2, bias=True)),
    "falcon-alibi": (
        "Falcon",
        dict(ffn_hidden_size=37, alibi=True, multi_query=False, parallel_attn=False, bias=True),
    ),
    "falcon-alibi-one-key": ("Falcon", dict(ffn_hidden_size=37, alibi=True)),
    "falcon-alibi-new": ("Falcon", dict(ffn_hidden_size=37, alibi=True, new_decoder_architecture=True, num_kv_heads=2)),
    "xglm": ("XGLM", dict(ffn_dim=37)),
    "olmo": ("Olmo", dict(clip_qkv=0.5)),
    "olmo2": ("Olmo2", {}),
    "mixtral": ("Mixtral", dict(EXPERTS, num_local_experts=5, num_experts_per_tok=2, sliding_window=4)),
    "qwen3_moe": (  # the router's weights of a token add up to 1
        "Qwen3Moe",
        dict(EXPERTS, head_dim=8, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=8, norm_topk_prob=True),
    ),
    "olmoe": ("Olmoe", dict(EXPERTS, num_experts=5, num_experts_per_tok=2)),  # they do not add up to 1
}
# Models of further families. Their entries have no field that a family of MODELS lacks, or one with tests of its own,
# as tests/models/test_shared_experts.py. tests/models/test_further_families.py compares them with brute force.
HALF_SLIDING = dict(sliding_window=4, layer_types=["sliding_attention", "full_attention"])
# Five experts of 8 and a shared one of 12. Dense layers of the models that have some are narrower or wider.
SHARED_EXPERT = dict(
    EXPERTS,
    intermediate_size=52,
    num_experts=5,
    num_experts_per_tok=2,
    moe_intermediate_size=8,
    shared_expert_intermediate_size=12,
)
ERNIE_MOE = dict(
    EXPERTS,
    head_dim=8,
    moe_num_experts=5,
    moe_k=2,
    moe_intermediate_size=8,
    moe_layer_start_index=0,
    moe_num_shared_experts=1,
)
# Experts in two groups, of which the router chooses one; a shared expert as wide as two of them.
GROUPED_EXPERTS = dict(
    EXPERTS,
    n_routed_experts=6,
    num_experts_per_tok=2,
    n_group=2,
    topk_group=1,
    n_shared_experts=2,
    moe_intermediate_size=8,
    routed_scaling_factor=1.5,
    first_k_dense_replace=0,
)
# Six experts of 8 neurons and a shared one of 8; dense layers are narrower.
LLAMA4 = dict(
    head_dim=8,
    intermediate_size=8,
    intermediate_size_mlp=44,
    num_local_experts=6,
    attention_chunk_size=4,
    floor_scale=4,
    attn_scale=0.5,
    no_rope_layers=[1, 0],
)
GRANITE_EXPERTS = dict(
    EXPERTS, intermediate_size=8, num_local_experts=5, num_experts_per_tok=2, attention_multiplier=0.3
)
# A layer with a sliding window that rotates, and one of full attention that does not. Padding sees a token of each
# document of `tiny_batch`: the softmax of a float64 model is float32, where hidden scores are -inf.
GRANITE_SWA = dict(sliding_window=5, layer_types=["sliding_attention", "full_attention"], layer_rope_theta=[1e4, 0])
EXAONE_MOE = dict(
    EXPERTS,
    head_dim=8,
    intermediate_size=52,
    num_experts=6,
    num_experts_per_tok=2,
    num_shared_experts=2,
    moe_intermediate_size=8,
    n_group=2,
    first_k_dense_replace=0,
)
AFMOE = dict(
    EXPERTS,
    **HALF_SLIDING,
    head_dim=8,
    num_experts=5,
    num_experts_per_tok=2,
    num_shared_experts=2,
    moe_intermediate_size=8,
    route_scale=1.5,
)
# A layer of full attention, with one key head, and one with a window, two key heads, and sinks. Padding sees a token of
# each document.
MIMO = dict(
    EXPERTS,
    head_dim=8,
    v_head_dim=5,
    num_key_value_heads=1,
    sliding_window=5,
    layer_types=["full_attention", "sliding_attention"],
    mlp_layer_types=["sparse", "sparse"],
    n_routed_experts=6,
    num_experts_per_tok=2,
    n_group=2,
    moe_intermediate_size=8,
    routed_scaling_factor=1.5,
    rope_parameters=dict(
        full_attention=dict(PARTIAL, rope_theta=1e6), sliding_attention=dict(PARTIAL, partial_rotary_factor=0.25)
    ),
)
COHERE_MOE = dict(EXPERTS, head_dim=8, num_experts=5, num_experts_per_tok=2)
SCALED_QUERIES = dict(rope_type="yarn", rope_theta=1e4, factor=16.0, original_max_position_embeddings=4)
# Layers of linear attention, whose sizes differ from those of the attention, and one of attention.
LINEAR = dict(
    head_dim=16,
    layer_types=["linear_attention", "full_attention"],
    linear_num_key_heads=1,
    linear_num_value_heads=2,
    linear_key_head_dim=6,
    linear_value_head_dim=10,
    linear_conv_kernel_dim=3,
)
OLMO_HYBRID = dict(LINEAR, linear_num_key_heads=2)
del OLMO_HYBRID["head_dim"]
LINEAR_EXPERTS = dict(SHARED_EXPERT, **LINEAR, num_hidden_layers=3)
LINEAR_EXPERTS["layer_types"] = ["full_attention", "linear_attention", "full_attention"]
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=1e4,
    factor=8.0,
    original_max_position_embeddings=8,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
)
# Multi-head latent attention whose head sizes all differ. Documents are longer than the original context, and YaRN
# scales the rotation and the attention scores.
LATENT = dict(
    num_key_value_heads=4,
    q_lora_rank=12,
    kv_lora_rank=10,
    qk_nope_head_dim=6,
    qk_rope_head_dim=4,
    v_head_dim=5,
    rope_parameters=dict(
        rope_type="yarn",
        rope_theta=1e4,
        factor=8.0,
        original_max_position_embeddings=8,
        mscale=0.7,
        mscale_all_dim=1.3,
    ),
)
# Each token is routed to two of the experts of one of two groups.
LATENT_EXPERTS = dict(
    LATENT,
    experts_implementation="eager",
    first_k_dense_replace=0,
    n_routed_experts=6,
    num_experts_per_tok=2,
    n_shared_experts=1,
    moe_intermediate_size=8,
    n_group=2,
    topk_group=1,
    routed_scaling_factor=1.7,
)
# Documents are longer than the positions that share a factor of their queries, and than twice as many.
MISTRAL4 = dict(
    LATENT_EXPERTS,
    rope_parameters=dict(LATENT["rope_parameters"], original_max_position_embeddings=4, llama_4_scaling_beta=0.4),
)
LATENT_DENSE_LAYER = dict(first_k_dense_replace=1, n_shared_experts=2, intermediate_size=52)
# Experts of 8 neurons. In models with a shared one it has 12.
MORE_EXPERTS = dict(EXPERTS, head_dim=8, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=8)
MORE_SHARED = dict(MORE_EXPERTS, shared_expert_intermediate_size=12)
DENSE_LAYER = dict(mlp_layer_types=["dense", "sparse"], intermediate_size=60)
HY_V3 = dict(MORE_EXPERTS, num_shared_experts=2, attention_bias=True, mlp_layer_types=["sparse", "sparse"])
# Each kind of layer has a rotation of its own.
MELLUM = dict(
    MORE_EXPERTS,
    **HALF_SLIDING,
    rope_parameters=dict(
        full_attention=dict(SCALED_QUERIES), sliding_attention=dict(rope_type="default", rope_theta=1e4)
    ),
)
LAGUNA = dict(
    MORE_SHARED,
    **HALF_SLIDING,
    mlp_layer_types=["sparse", "sparse"],
    moe_routed_scaling_factor=1.5,
    rope_parameters=dict(full_attention=dict(PARTIAL), sliding_attention=dict(rope_type="default", rope_theta=1e4)),
)
FLINT = dict(MORE_SHARED, **dict(HALF_SLIDING, sliding_window=5), mlp_only_layers=[])
MORE_MODELS = {
    "solar_open": ("SolarOpen", dict(GROUPED_EXPERTS, head_dim=8, attention_bias=True)),
    "hy_v3": ("HYV3", HY_V3),
    "hy_v3-half-dense": ("HYV3", dict(HY_V3, **DENSE_LAYER, mlp_bias=True, enable_moe_fp32_combine=False)),
    "mellum": ("Mellum", MELLUM),
    "mellum-half-dense": ("Mellum", dict(MELLUM, **DENSE_LAYER, attention_bias=True, norm_topk_prob=False)),
    "laguna": (  # a gate for each head, and layers that differ in their number of heads
        "Laguna",
        dict(LAGUNA, num_attention_heads_per_layer=[4, 6], moe_router_logit_softcapping=2.0),
    ),
    "laguna-half-dense": ("Laguna", dict(LAGUNA, **DENSE_LAYER, gating="per-element", attention_bias=True)),
    "kolibri1": ("Kolibri1", dict(MORE_SHARED, **HALF_SLIDING)),
    "flint": ("Flint", FLINT),
    "flint-half-dense": ("Flint", dict(FLINT, mlp_only_layers=[0], intermediate_size=60, attention_bias=True)),
    "aria_text": (  # its experts have silu, whatever the activation of the shared one
        "AriaText",
        dict(
            EXPERTS,
            intermediate_size=8,
            moe_num_experts=5,
            moe_topk=2,
            hidden_act="gelu",
            attention_bias=True,
            mlp_bias=True,
        ),
    ),
    "axk1": ("AXK1", dict(LATENT_EXPERTS, mlp_layer_types=["sparse"] * 2)),
    "axk1-half-dense": (
        "AXK1",
        dict(LATENT_EXPERTS, **DENSE_LAYER, n_shared_experts=2, attention_bias=True, rope_interleave=False),
    ),
    "dbrx": (
        "Dbrx",
        dict(
            d_model=32,
            attn_config=dict(kv_n_heads=2, clip_qkv=0.5, rope_theta=1e4),
            ffn_config=dict(ffn_hidden_size=8, moe_num_experts=5, moe_top_k=2),
        ),
    ),
    "dbrx-one-key": (  # transformers 5.23 does not run a model without clip_qkv
        "Dbrx",
        dict(
            d_model=32,
            num_key_value_heads=1,
            attn_config=dict(kv_n_heads=1, clip_qkv=8.0, rope_theta=1e4),
            ffn_config=dict(
                ffn_hidden_size=8,
                moe_num_experts=5,
                moe_top_k=2,
                moe_normalize_expert_weights=None,
                ffn_act_fn=dict(name="gelu"),
            ),
        ),
    ),
}
# Those that the installed transformers has.
MORE_MODELS = {name: entry for name, entry in MORE_MODELS.items() if hasattr(transformers, f"{entry[0]}Config")}
# Windows and full attention, whose heads are larger, fewer, and not all rotated. The last two layers take the keys and
# values of the first two, and have wider FFNs.
GEMMA4 = dict(
    head_dim=8,
    global_head_dim=16,
    num_hidden_layers=4,
    layer_types=["sliding_attention", "full_attention"] * 2,
    sliding_window=4,
    num_kv_shared_layers=2,
    use_double_wide_mlp=True,
    intermediate_size=19,
    hidden_size_per_layer_input=6,
    vocab_size_per_layer_input=VOCABULARY_SIZE,
)
HUNYUAN_ALPHA = "compute_ntk_alpha_rope_parameters"
# No layer has inputs of its own, as some of Gemma 4 have.
GEMMA4_UNIFIED = {key: value for key, value in GEMMA4.items() if not key.endswith("per_layer_input")}
# Encoders of images and of sound that are as small as they can be.
PHI4_SENSES = dict(
    vision_config=dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    ),
    audio_config=dict(
        hidden_size=16,
        intermediate_size=16,
        num_blocks=2,
        num_attention_heads=2,
        input_size=8,
        time_reduction=2,
        ext_pw_out_channel=16,
        depthwise_separable_out_channel=16,
        nemo_conv_channels=16,
        bias_max_distance=8,
    ),
)
FURTHER_MODELS = {
    **MORE_MODELS,
    "deepseek_v2": ("DeepseekV2", dict(LATENT_EXPERTS, topk_method="group_limited_greedy")),
    "deepseek_v2-half-dense": (
        "DeepseekV2",
        dict(LATENT_EXPERTS, **LATENT_DENSE_LAYER, q_lora_rank=None, attention_bias=True),
    ),
    "deepseek_v3": ("DeepseekV3", LATENT_EXPERTS),
    "deepseek_v3-half-dense": (
        "DeepseekV3",
        dict(LATENT_EXPERTS, **LATENT_DENSE_LAYER, q_lora_rank=None, attention_bias=True, rope_interleave=False),
    ),
    "glm4_moe_lite": ("Glm4MoeLite", dict(LATENT_EXPERTS, mlp_layer_types=["sparse"] * 2)),
    "mistral4": ("Mistral4", MISTRAL4),
    "mistral4-half-dense": (
        "Mistral4",
        dict(MISTRAL4, **LATENT_DENSE_LAYER, q_lora_rank=None, attention_bias=True, rope_interleave=False),
    ),
    "minicpm3": ("MiniCPM3", LATENT),
    "youtu": ("Youtu", dict(LATENT, attention_bias=True)),
    "ministral": ("Ministral", dict(HALF_SLIDING, head_dim=8)),
    "ministral3": (  # documents are longer than the original context, so that queries are scaled
        "Ministral3",
        dict(sliding_window=6, head_dim=8, rope_parameters=dict(SCALED_QUERIES, llama_4_scaling_beta=0.4)),
    ),
    "seed_oss": ("SeedOss", dict(head_dim=12, attention_bias=True, attention_out_bias=True, mlp_bias=True)),
    "cwm": ("Cwm", dict(HALF_SLIDING, head_dim=8, rope_parameters=dict(LLAMA3))),
    "arcee": ("Arcee", {}),
    "nemotron": ("Nemotron", dict(head_dim=8)),
    "apertus": ("Apertus", dict(attention_bias=True, rope_parameters=dict(LLAMA3))),
    "hunyuan_v1_dense": (  # the tables of its rotation are cosines and sines times a factor
        "HunYuanDenseV1",
        dict(head_dim=8, attention_bias=True, rope_parameters=dict(SCALED_QUERIES)),
    ),
    "hunyuan_v1_dense-alpha": (  # documents are longer than the context; the frequencies do not depend on length
        "HunYuanDenseV1",
        dict(
            head_dim=8,
            # In transformers 5.17 the frequencies depend on length beyond the context.
            max_position_embeddings=8 if hasattr(hunyuan.HunYuanDenseV1RotaryEmbedding, HUNYUAN_ALPHA) else 64,
            rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=1.0, alpha=1000.0),
        ),
    ),
    "olmo3": ("Olmo3", dict(HALF_SLIDING)),
    "olmo_hybrid": ("OlmoHybrid", dict(OLMO_HYBRID, rope_parameters=None)),
    "olmo_hybrid-rotated": (
        "OlmoHybrid",
        dict(OLMO_HYBRID, attention_bias=True, rope_parameters=dict(rope_type="default", rope_theta=1e4)),
    ),
    "exaone4": ("Exaone4", dict(HALF_SLIDING, sliding_window_pattern=2)),
    "exaone4-full": ("Exaone4", dict(sliding_window=None, layer_types=["full_attention"] * 2)),
    "glm4": ("Glm4", dict(head_dim=8, rope_parameters=dict(PARTIAL))),
    "glm4_moe": (
        "Glm4Moe",
        dict(GROUPED_EXPERTS, head_dim=8, attention_bias=True, use_qk_norm=True, rope_parameters=dict(PARTIAL)),
    ),
    "glm4_moe-half-dense": (
        "Glm4Moe",
        dict(GROUPED_EXPERTS, head_dim=8, intermediate_size=56, first_k_dense_replace=1, rope_parameters=dict(PARTIAL)),
    ),
    "llama4_text": (  # documents are longer than the chunks, and than the positions that share a scale of queries
        "Llama4",
        dict(LLAMA4, moe_layers=[1], attention_bias=True),
    ),
    "llama4_text-experts": ("Llama4", dict(LLAMA4, num_experts_per_tok=2, use_qk_norm=False, no_rope_layers=[1, 1])),
    "granite_swa": ("GraniteSWA", dict(GRANITE_SWA, attention_multiplier=0.3, residual_multiplier=0.22)),
    "granitemoe": ("GraniteMoe", dict(GRANITE_EXPERTS, residual_multiplier=0.22, attention_bias=True)),
    "granitemoeshared": ("GraniteMoeShared", dict(GRANITE_EXPERTS, shared_intermediate_size=12)),
    "granitemoeshared-unshared": ("GraniteMoeShared", dict(GRANITE_EXPERTS, shared_intermediate_size=0)),
    "granitemoe_swa": ("GraniteMoeSWA", dict(GRANITE_EXPERTS, **GRANITE_SWA, shared_intermediate_size=12)),
    "dots1": ("Dots1", dict(GROUPED_EXPERTS, head_dim=8, **HALF_SLIDING, norm_topk_prob=True)),
    "exaone_moe": ("ExaoneMoe", dict(EXAONE_MOE, **HALF_SLIDING, mlp_layer_types=["dense", "sparse"])),
    "minimax_m2": (
        "MiniMaxM2",
        dict(EXPERTS, head_dim=8, num_local_experts=5, num_experts_per_tok=2, rope_parameters=dict(PARTIAL)),
    ),
    "mimo_v2_flash": ("MiMoV2Flash", MIMO),
    "mimo_v2_flash-half-dense": (
        "MiMoV2Flash",
        dict(
            MIMO,
            attention_value_scale=None,
            attention_bias=True,
            intermediate_size=60,
            mlp_layer_types=["dense", "sparse"],
        ),
    ),
    "minimax": (  # the residual and the output of a sublayer have factors; documents are longer than a block
        "MiniMax",
        dict(
            EXPERTS,
            head_dim=16,
            num_hidden_layers=3,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
            block_size=4,
            num_local_experts=5,
            num_experts_per_tok=2,
            full_attn_alpha_factor=1.5,
            full_attn_beta_factor=0.7,
            linear_attn_alpha_factor=1.2,
            linear_attn_beta_factor=0.6,
            mlp_alpha_factor=1.1,
            mlp_beta_factor=0.8,
        ),
    ),
    "minimax-window": (
        "MiniMax",
        dict(
            EXPERTS,
            layer_types=["full_attention", "linear_attention"],
            block_size=4,
            sliding_window=5,
            num_local_experts=5,
            num_experts_per_tok=2,
        ),
    ),
    "hunyuan_v1_moe": (
        "HunYuanMoEV1",
        dict(EXPERTS, head_dim=8, num_experts=5, moe_topk=2, rope_parameters=dict(SCALED_QUERIES)),
    ),
    "cohere2_moe": (
        "Cohere2Moe",
        dict(COHERE_MOE, **HALF_SLIDING, num_shared_experts=1, shared_expert_combination_strategy="sum"),
    ),
    "cohere2_moe-half-dense": (  # its first layer has full attention, and rotates because it is dense
        "Cohere2Moe",
        dict(
            COHERE_MOE,
            sliding_window=4,
            layer_types=["full_attention", "full_attention"],
            mlp_layer_types=["dense", "sparse"],
            prefix_dense_intermediate_size=72,
            expert_selection_fn="sigmoid",
        ),
    ),
    "internlm3": ("InternLM3", dict(head_dim=12, attention_bias=True, mlp_bias=True)),
    "hyperclovax": ("HyperCLOVAX", dict(attention_multiplier=0.3, residual_multiplier=0.22)),
    "hyperclovax-unnormed": ("HyperCLOVAX", dict(use_post_norm=False, attention_bias=True)),
    "jais2": ("Jais2", dict(head_dim=8)),
    "nanochat": ("NanoChat", {}),
    "vaultgemma": (
        "VaultGemma",
        dict(HALF_SLIDING, sliding_window=5, head_dim=8, attn_logit_softcapping=2.0, query_pre_attn_scalar=5),
    ),
    "persimmon": ("Persimmon", dict(rope_parameters=dict(PARTIAL))),
    "persimmon-unnormed": ("Persimmon", dict(rope_parameters=dict(PARTIAL), qk_layernorm=False)),
    "biogpt": ("BioGpt", {}),
    "gpt_bigcode": ("GPTBigCode", dict(n_inner=37)),
    "gpt_bigcode-heads": ("GPTBigCode", dict(n_inner=37, multi_query=False, scale_attn_weights=False)),
    "gpt_neo": (  # a layer with a window of 5 positions
        "GPTNeo",
        dict(num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=5),
    ),
    "openai-gpt": ("OpenAIGPT", {}),
    "gptj": ("GPTJ", dict(n_inner=37, rotary_dim=4)),
    "codegen": ("CodeGen", dict(n_inner=37, num_attention_heads=8, hidden_size=48, rotary_dim=4)),
    "gpt_neox_japanese": ("GPTNeoXJapanese", {}),  # transformers 5.17 fails where it rotates a part of each head
    "mpt": ("Mpt", dict(max_seq_len=64, attn_config=dict(clip_qkv=0.5, softmax_scale=0.3))),
    "mpt-unclipped": ("Mpt", dict(max_seq_len=64)),
    "flex_olmo": ("FlexOlmo", dict(EXPERTS, num_experts=5, num_experts_per_tok=2)),
    "afmoe": ("Afmoe", dict(AFMOE, num_dense_layers=0)),
    "afmoe-half-dense": ("Afmoe", dict(AFMOE, num_dense_layers=1, intermediate_size=56)),
    "helium": ("Helium", dict(head_dim=8)),
    "iquestcoder": ("IQuestCoder", dict(head_dim=12, attention_bias=True, mlp_bias=True)),
    "emu3_text_model": ("Emu3", dict(head_dim=12, bos_token_id=1, attention_bias=True, mlp_bias=True)),
    "cohere_compass_text": (  # a layer with a window that rotates, and one without that does not
        "CohereCompass",
        dict(
            HALF_SLIDING,
            attention_bias=True,
            rope_parameters=dict(
                sliding_attention=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 1, 1]),
                full_attention=None,
            ),
        ),
    ),
    "cohere_compass_text-rotated": (
        "CohereCompass",
        dict(
            sliding_window=5,  # of no layer
            rope_parameters=dict(
                full_attention=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 1, 1]),
            ),
        ),
    ),
    "ctrl": ("CTRL", dict(dff=37)),
    "modernbert-decoder": (  # a layer with a window of 4 positions, and one without
        "ModernBertDecoder",
        dict(
            local_attention=8,
            layer_types=["sliding_attention", "full_attention"],
            attention_bias=True,
            mlp_bias=True,
            bos_token_id=1,
        ),
    ),
    "phi4_multimodal": ("Phi4Multimodal", dict(PHI4_SENSES, sliding_window=5)),
    "phi4_multimodal-partial-rotary": ("Phi4Multimodal", dict(PHI4_SENSES, rope_parameters=dict(PARTIAL))),
    "gemma4_unified_text": ("Gemma4Unified", GEMMA4_UNIFIED),
    "gemma4_unified_text-keys-as-values": (
        "Gemma4Unified",
        dict(
            GEMMA4_UNIFIED,
            num_hidden_layers=2,
            layer_types=GEMMA4["layer_types"][:2],
            num_kv_shared_layers=0,
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
        ),
    ),
    "ernie4_5": ("Ernie4_5", dict(head_dim=8, use_bias=True)),
    "qwen2_moe": ("Qwen2Moe", SHARED_EXPERT),
    "qwen2_moe-half-dense": ("Qwen2Moe", dict(SHARED_EXPERT, intermediate_size=44, mlp_only_layers=[0])),
    "qwen3_moe-half-dense": (
        "Qwen3Moe",
        dict(MODELS["qwen3_moe"][1], intermediate_size=60, decoder_sparse_step=2),
    ),
    "ernie4_5_moe": ("Ernie4_5_Moe", ERNIE_MOE),
    "ernie4_5_moe-half-dense": (
        "Ernie4_5_Moe",
        dict(ERNIE_MOE, intermediate_size=80, moe_layer_start_index=1, moe_num_shared_experts=2),
    ),
    "ernie4_5_moe-unshared": ("Ernie4_5_Moe", dict(ERNIE_MOE, moe_num_shared_experts=0)),
    "qwen3_5_text": ("Qwen3_5", dict(LINEAR, rope_parameters=dict(PARTIAL, mrope_section=[2, 1, 1]))),
    "qwen3_5_text-bias": ("Qwen3_5", dict(LINEAR, attention_bias=True, num_key_value_heads=1)),
    "qwen3_5_moe_text": ("Qwen3_5Moe", LINEAR_EXPERTS),
    "qwen3_next": (  # documents are longer than the original context
        "Qwen3Next",
        dict(LINEAR_EXPERTS, rope_parameters=dict(SCALED_QUERIES, partial_rotary_factor=0.5)),
    ),
    "qwen3_next-half-dense": ("Qwen3Next", dict(LINEAR_EXPERTS, intermediate_size=36, mlp_only_layers=[0, 1])),
    "gpt_oss": (  # a layer with a sliding window and one without; documents are longer than the original context
        "GptOss",
        dict(
            EXPERTS,
            head_dim=8,
            num_local_experts=5,
            num_experts_per_tok=2,
            sliding_window=4,
            swiglu_limit=0.5,  # such that gate and up are clamped
            rope_parameters=dict(
                rope_type="yarn",
                rope_theta=1e4,
                factor=8.0,
                beta_fast=32.0,
                beta_slow=1.0,
                truncate=False,
                original_max_position_embeddings=8,
            ),
        ),
    ),
    "phimoe": ("Phimoe", dict(EXPERTS, num_local_experts=5, num_experts_per_tok=2, attention_bias=True)),
    "gemma3n_text": (  # one layer with a sparse gate; the last two layers take keys and values
        "Gemma3n",
        dict(
            HALF_SLIDING,
            head_dim=8,
            num_hidden_layers=4,
            layer_types=["sliding_attention", "full_attention"] * 2,
            num_kv_shared_layers=2,
            intermediate_size=[37, 37, 24, 37],
            activation_sparsity_pattern=[0.7, 0.0, 0.0, 0.0],
            hidden_size_per_layer_input=6,
            vocab_size_per_layer_input=VOCABULARY_SIZE,
            laurel_rank=5,
        ),
    ),
    "gemma4_text": ("Gemma4", GEMMA4),
    "gemma4_text-keys-as-values": (  # in the layers of full attention, and no layer takes keys of another one
        "Gemma4",
        dict(
            GEMMA4,
            num_hidden_layers=2,
            layer_types=GEMMA4["layer_types"][:2],
            num_kv_shared_layers=0,
            hidden_size_per_layer_input=0,
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
        ),
    ),
}
# {prefix: class with a language-model head}, where its name is not the prefix and "ForCausalLM".
OTHER_CLASSES = {
    "CTRL": "CTRLLMHeadModel",
    "GPT2": "GPT2LMHeadModel",
    "InternLM3": "LlamaForCausalLM",
    "IQuestCoder": "LlamaForCausalLM",
    "OpenAIGPT": "OpenAIGPTLMHeadModel",
}
# Adapters of two languages, of which the second one's run.
XMOD = dict(max_position_embeddings=80, pad_token_id=2, languages=["en_XX", "fr_XX"], default_language="fr_XX")
# Encoders, with a head that predicts masked tokens. The positions of roberta begin behind the number of its padding
# token, with which `tiny_batch` does not always pad.
ENCODERS = {
    "bert": ("Bert", dict(hidden_act="gelu_new")),
    "roberta": ("Roberta", dict(max_position_embeddings=80)),
    "modernbert": (  # a layer with a window, which reaches 4 tokens to either side, and one without
        "ModernBert",
        dict(
            local_attention=8, layer_types=["sliding_attention", "full_attention"], attention_bias=True, mlp_bias=True
        ),
    ),
    "xlm-roberta": ("XLMRoberta", dict(max_position_embeddings=80, pad_token_id=2)),
    "camembert": ("Camembert", dict(max_position_embeddings=80, pad_token_id=2)),
    "data2vec-text": ("Data2VecText", dict(max_position_embeddings=80, pad_token_id=2)),
    "electra": ("Electra", dict(embedding_size=12, hidden_act="gelu_new")),
    "electra-unprojected": ("Electra", dict(embedding_size=32)),
    "ernie": ("Ernie", {}),
    "ernie-tasks": ("Ernie", dict(use_task_id=True)),
    "megatron-bert": ("MegatronBert", dict(hidden_act="gelu_new")),
    "rembert": ("RemBert", dict(input_embedding_size=12, output_embedding_size=20)),
    "roberta-prelayernorm": ("RobertaPreLayerNorm", dict(max_position_embeddings=80, pad_token_id=2)),
    "xlm-roberta-xl": ("XLMRobertaXL", dict(max_position_embeddings=80, pad_token_id=2)),
    "xmod": ("Xmod", XMOD),
    "xmod-norm-of-adapters": ("Xmod", dict(XMOD, adapter_layer_norm=True, ln_before_adapter=False)),
    "xmod-norms-before": ("Xmod", dict(XMOD, pre_norm=True)),
}
# Encoders whose norms come before the sublayers, and whose modules add the residual.
WITH_NORMS_BEFORE = ("megatron-bert", "roberta-prelayernorm", "xlm-roberta-xl", "xmod-norms-before")
# Types that count positions behind that of their padding token.
FROM_PADDING = (
    "camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"
)  # fmt: skip
# Encoder-decoders, whose encoders are measured. That of m2m_100 has other sizes than its decoder, and its positions
# count the tokens that are not the padding token. t5 has biases of relative positions.
PAIR_SHAPE = dict(
    vocab_size=VOCABULARY_SIZE, pad_token_id=0, eos_token_id=1, decoder_start_token_id=3, tie_word_embeddings=False
)
PAIR = dict(d_model=32, num_layers=2, num_heads=4, d_kv=6, d_ff=37)
PAIRS = {
    "t5": ("T5", dict(PAIR, relative_attention_num_buckets=8, relative_attention_max_distance=6)),
    "mt5": (
        "MT5",
        dict(
            PAIR,
            feed_forward_proj="gated-gelu",
            relative_attention_num_buckets=10,
            relative_attention_max_distance=7,
        ),
    ),
    "m2m_100": (
        "M2M100",
        dict(
            d_model=32,
            encoder_layers=2,
            decoder_layers=3,
            encoder_attention_heads=4,
            decoder_attention_heads=2,
            encoder_ffn_dim=37,
            decoder_ffn_dim=21,
            pad_token_id=2,
        ),
    ),
}
if Version(transformers.__version__) < Version("5.3"):  # its sdpa ignores these scales
    del MODELS["gpt2-other-scales"]
# One model for each way of arranging modules, for tests that do not depend on the variants.
REPRESENTATIVE_MODELS = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3-partial-rotary", "starcoder2",
    "gpt2",  # Conv1D with transposed weights, and fused projections
    "gpt_neox",  # projections fused by head
    "falcon-new",  # projections fused by key head, no attention interface
    "bloom",  # an FFN that adds the residual, ALiBi
    "opt",  # an FFN on the layer itself, for all rows in one dimension
    "mixtral",  # a mixture of experts
)  # fmt: skip


def tiny_model(name: str, dtype: torch.dtype = torch.float32, seed: int = 0, **changes):
    """Returns a model of MODELS, FURTHER_MODELS, ENCODERS or PAIRS with random parameters.

    They are drawn in float32 and then cast to the dtype.

    **changes: fields of the configuration that differ from the model's entry.

    Raises:
        SkipTest: transformers has no such models. pytest then skips the test.
    """
    kind, differences = (MODELS | FURTHER_MODELS | ENCODERS | PAIRS)[name]
    if is_missing(kind):
        raise SkipTest(f"transformers {transformers.__version__} has no {kind}")
    config = configuration(kind)(**{**(PAIR_SHAPE if name in PAIRS else SHAPE), **differences, **changes})
    if name.startswith(("gemma2", "vaultgemma")):
        config._attn_implementation = "eager"  # transformers' sdpa has no soft caps
    head = "ForMaskedLM" if name in ENCODERS else "ForConditionalGeneration" if name in PAIRS else "ForCausalLM"
    model = getattr(transformers, OTHER_CLASSES.get(kind, f"{kind}{head}"))(config).eval()
    _draw(model, torch.Generator().manual_seed(seed))
    for layer in layers_of(model) if name in ("qwen2", "llama-large-key-bias") else ():
        _enlarge_key_bias(layer.self_attn, slow_only=name == "qwen2")
    return model.to(dtype)


def configuration(kind: str) -> type:
    """Returns transformers' class of configurations for a prefix, such as LlamaConfig for "Llama"."""
    return getattr(transformers, _name_of_configuration(kind))


def is_missing(kind: str) -> bool:
    """Whether the installed transformers lacks the models of a prefix, as 5.17 lacks InternLM3."""
    return not hasattr(transformers, _name_of_configuration(kind))


def _name_of_configuration(kind: str) -> str:
    is_text = kind in ("CohereCompass", "Emu3", "Gemma3", "Gemma3n", "Gemma4", "Gemma4Unified", "Llama4", "Qwen3_5",
                       "Qwen3_5Moe")  # fmt: skip
    return f"{kind}TextConfig" if is_text else f"{kind}Config"


@torch.no_grad()
def _draw(model, generator) -> None:
    """Sets all parameters to random numbers: gains of norms near 1, and weights that keep the size of their input."""
    # Norms multiply by 1 + weight.
    offset = type(model).__name__.startswith(("Gemma", "VaultGemma", "Qwen3Next", "Qwen3_5"))
    offset = offset and not type(model).__name__.startswith(("Gemma3n", "Gemma4"))
    transposed = {id(module.weight) for module in model.modules() if type(module).__name__ == "Conv1D"}
    for name, parameter in model.named_parameters():
        name = name.replace("norm_attn_norm.", "")  # DBRX's attention with the norms around it
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name.lower() or "ln_" in name or ".ln." in name:
            noise = 0.3 * noise + (0 if (offset and "linear_attn" not in name) or name.endswith("bias") else 1)
        elif parameter.ndim > 1 and "embed" not in name and ".wte" not in name and ".wpe" not in name:
            noise = noise * parameter.shape[0 if id(parameter) in transposed else -1] ** -0.5
        elif name.endswith("bias"):
            noise = 0.5 * noise
        parameter.copy_(noise)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):  # what routers add to scores before they choose
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))


@torch.no_grad()
def _enlarge_key_bias(attention, slow_only: bool) -> None:
    """Sets the key biases of all dimensions, or of the slowly rotating ones, to +-300.

    In trained Qwen2 models, large biases are on the dimensions that rotate slowly.
    """
    bias = attention.k_proj.bias.view(-1, attention.head_dim)
    slow = torch.arange(attention.head_dim) % (attention.head_dim // 2) >= attention.head_dim // 4
    bias[:, slow if slow_only else slice(None)] = 300 * bias[:, slow if slow_only else slice(None)].sign()


def tiny_batch(lengths=(11, 7), padding: str = "right", seed: int = 0) -> dict[str, torch.Tensor]:
    """Returns input_ids and attention_mask of documents of these lengths, padded on one side with token 0."""
    generator = torch.Generator().manual_seed(seed)
    shape = len(lengths), max(lengths)
    input_ids = torch.zeros(shape, dtype=torch.int64)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    for row, length in enumerate(lengths):
        place = slice(0, length) if padding == "right" else slice(shape[1] - length, None)
        input_ids[row, place] = torch.randint(3, VOCABULARY_SIZE, (length,), generator=generator)
        attention_mask[row, place] = 1
    return dict(input_ids=input_ids, attention_mask=attention_mask)


def hidden_of(model, batch: dict) -> torch.Tensor:
    """Returns the last hidden states, (documents, tokens, D). Every document's first token has the first position."""
    if model.config.model_type in PAIRS:
        mask, tokens = batch["attention_mask"].bool(), batch["input_ids"]
        tokens = tokens.masked_fill(~mask, model.config.pad_token_id)
        return model.get_encoder()(input_ids=tokens, attention_mask=batch["attention_mask"]).last_hidden_state
    takes_positions = model.config.model_type not in ("bloom", "mpt")
    options = {"position_ids": positions(batch["attention_mask"], model)} if takes_positions else {}
    return base_of(model)(**batch, **options, use_cache=False).last_hidden_state


def positions(attention_mask: torch.Tensor, model) -> torch.Tensor:
    """Returns position ids that start at a document's first token with 0, or behind that of the padding token."""
    config = model.config
    first = config.pad_token_id + 1 if config.model_type in FROM_PADDING else 0
    return (attention_mask.cumsum(-1) - 1).clamp(min=0) + first


def unknown_model():
    """Returns a tiny model of a family that the package does not know."""
    return transformers.BitNetForCausalLM(
        transformers.BitNetConfig(**{**SHAPE, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2})
    ).eval()


def random_neurons(model, fraction: float = 0.2, seed: int = 0, sites=SITES) -> NeuronSet:
    """Returns a random set of a model's neurons, with members in every site and in every layer that has the site."""
    generator = torch.Generator().manual_seed(seed)
    layers = [layer_sizes(model.config, layer) for layer in range(model.config.num_hidden_layers)]
    masks = {}
    for site in sites:
        width = sizes(model.config)[site]
        masks[site] = torch.rand(model.config.num_hidden_layers, width, generator=generator) < fraction
        common = min(layer[site] for layer in layers if layer[site])
        masks[site][:, int(torch.randint(common, (), generator=generator))] = True
        masks[site] &= torch.arange(width) < torch.tensor([layer[site] for layer in layers])[:, None]
    return NeuronSet(masks, {site: [layer[site] for layer in layers] for site in sites})


def with_zeroed_neurons(model, neurons: NeuronSet):
    """Returns a copy of the model in which the parameters of these neurons are zero."""
    model = copy.deepcopy(model)
    for site, mask in neurons.sites.items():
        for layer, n in mask.nonzero().tolist():
            zero_neuron(layers_of(model)[layer], site, n, model.config)
    return model
