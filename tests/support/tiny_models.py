"""Tiny random models of every supported family, and documents for them."""

import copy

import torch
import transformers
from packaging.version import Version

from pymultiling import SITES, NeuronSet
from tests.support.anatomy import has_site, layers_of, sizes, zero_neuron

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
    "gemma2-bias": ("Gemma2", dict(head_dim=8, attention_bias=True)),
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
# The dense layer of the model that has one is as wide as the other layers: five experts of 8 and a shared one of 12.
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
FURTHER_MODELS = {
    "ministral": ("Ministral", dict(HALF_SLIDING, head_dim=8)),
    "ministral3": (  # documents are longer than the original context, so that queries are scaled
        "Ministral3",
        dict(sliding_window=6, head_dim=8, rope_parameters=dict(SCALED_QUERIES, llama_4_scaling_beta=0.4)),
    ),
    "seed_oss": ("SeedOss", dict(head_dim=12, attention_bias=True, attention_out_bias=True, mlp_bias=True)),
    "cwm": ("Cwm", dict(HALF_SLIDING, head_dim=8)),
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
            max_position_embeddings=8,
            rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=1.0, alpha=1000.0),
        ),
    ),
    "olmo3": ("Olmo3", dict(HALF_SLIDING)),
    "exaone4": ("Exaone4", dict(HALF_SLIDING, sliding_window_pattern=2)),
    "exaone4-full": ("Exaone4", dict(sliding_window=None, layer_types=["full_attention"] * 2)),
    "glm4": ("Glm4", dict(head_dim=8, rope_parameters=dict(PARTIAL))),
    "helium": ("Helium", dict(head_dim=8)),
    "ernie4_5": ("Ernie4_5", dict(head_dim=8, use_bias=True)),
    "qwen2_moe": ("Qwen2Moe", SHARED_EXPERT),
    "qwen2_moe-half-dense": ("Qwen2Moe", dict(SHARED_EXPERT, mlp_only_layers=[0])),
    "qwen3_moe-half-dense": (
        "Qwen3Moe",
        dict(MODELS["qwen3_moe"][1], intermediate_size=48, decoder_sparse_step=2),
    ),
    "ernie4_5_moe": ("Ernie4_5_Moe", ERNIE_MOE),
    "ernie4_5_moe-half-dense": (
        "Ernie4_5_Moe",
        dict(ERNIE_MOE, intermediate_size=56, moe_layer_start_index=1, moe_num_shared_experts=2),
    ),
    "ernie4_5_moe-unshared": ("Ernie4_5_Moe", dict(ERNIE_MOE, moe_num_shared_experts=0)),
    "qwen3_5_text": ("Qwen3_5", dict(LINEAR, rope_parameters=dict(PARTIAL, mrope_section=[2, 1, 1]))),
    "qwen3_5_text-bias": ("Qwen3_5", dict(LINEAR, attention_bias=True, num_key_value_heads=1)),
    "qwen3_5_moe_text": ("Qwen3_5Moe", LINEAR_EXPERTS),
    "qwen3_next": (  # documents are longer than the original context
        "Qwen3Next",
        dict(LINEAR_EXPERTS, rope_parameters=dict(SCALED_QUERIES, partial_rotary_factor=0.5)),
    ),
    "qwen3_next-half-dense": ("Qwen3Next", dict(LINEAR_EXPERTS, mlp_only_layers=[0, 1])),
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
}
# Encoders, with a head that predicts masked tokens. tests/models/test_encoders.py compares them with brute force. The
# positions of roberta begin behind the number of its padding token, with which `tiny_batch` does not always pad.
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
}
# Encoder-decoders, whose encoders are measured. That of m2m_100 has other sizes than its decoder, and its positions
# count the tokens that are not the padding token. t5 has biases of relative positions.
PAIR_SHAPE = dict(
    vocab_size=VOCABULARY_SIZE, pad_token_id=0, eos_token_id=1, decoder_start_token_id=3, tie_word_embeddings=False
)
PAIR = dict(d_model=32, num_layers=2, num_heads=4, d_kv=6, d_ff=37)
PAIRS = {
    "t5": ("T5", dict(PAIR, relative_attention_num_buckets=8, relative_attention_max_distance=6)),
    "mt5": ("MT5", dict(PAIR, feed_forward_proj="gated-gelu")),
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
    """
    kind, differences = (MODELS | FURTHER_MODELS | ENCODERS | PAIRS)[name]
    config = configuration(kind)(**{**(PAIR_SHAPE if name in PAIRS else SHAPE), **differences, **changes})
    if name.startswith("gemma2"):
        config._attn_implementation = "eager"  # transformers' sdpa has no soft caps
    if name in PAIRS:
        kind += "ForConditionalGeneration"
    head = (
        ""
        if name in PAIRS
        else "LMHeadModel"
        if kind == "GPT2"
        else "ForMaskedLM"
        if name in ENCODERS
        else "ForCausalLM"
    )
    model = getattr(transformers, f"{kind}{head}")(config).eval()
    _draw(model, torch.Generator().manual_seed(seed))
    for layer in layers_of(model) if name in ("qwen2", "llama-large-key-bias") else ():
        _enlarge_key_bias(layer.self_attn, slow_only=name == "qwen2")
    return model.to(dtype)


def configuration(kind: str) -> type:
    """Returns transformers' class of configurations for a prefix, such as LlamaConfig for "Llama"."""
    return getattr(
        transformers, f"{kind}TextConfig" if kind in ("Gemma3", "Qwen3_5", "Qwen3_5Moe") else f"{kind}Config"
    )


@torch.no_grad()
def _draw(model, generator) -> None:
    """Sets all parameters to random numbers: gains of norms near 1, and weights that keep the size of their input."""
    offset = type(model).__name__.startswith(("Gemma", "Qwen3Next", "Qwen3_5"))  # norms multiply by 1 + weight
    transposed = {id(module.weight) for module in model.modules() if type(module).__name__ == "Conv1D"}
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name.lower() or "ln_" in name:
            noise = 0.3 * noise + (0 if (offset and "linear_attn" not in name) or name.endswith("bias") else 1)
        elif parameter.ndim > 1 and "embed" not in name and ".wte" not in name and ".wpe" not in name:
            noise = noise * parameter.shape[0 if id(parameter) in transposed else -1] ** -0.5
        elif name.endswith("bias"):
            noise = 0.5 * noise
        parameter.copy_(noise)


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
    options = {} if model.config.model_type == "bloom" else {"position_ids": positions(batch["attention_mask"], model)}
    return model.base_model(**batch, **options, use_cache=False).last_hidden_state


def positions(attention_mask: torch.Tensor, model) -> torch.Tensor:
    """Returns position ids that start at a document's first token with 0, or behind that of the padding token."""
    config = model.config
    first = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta") else 0
    return (attention_mask.cumsum(-1) - 1).clamp(min=0) + first


def unknown_model():
    """Returns a tiny model of a family that the package does not know."""
    return transformers.CodeGenForCausalLM(
        transformers.CodeGenConfig(n_embd=16, n_layer=1, n_head=2, rotary_dim=4, vocab_size=VOCABULARY_SIZE)
    ).eval()


def random_neurons(model, fraction: float = 0.2, seed: int = 0, sites=SITES) -> NeuronSet:
    """Returns a random set of a model's neurons, with members in every site and in every layer that has the site."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for site in sites:
        width = sizes(model.config)[site]
        masks[site] = torch.rand(model.config.num_hidden_layers, width, generator=generator) < fraction
        masks[site][:, int(torch.randint(width, (), generator=generator))] = True
        masks[site][[not has_site(model.config, site, layer) for layer in range(len(masks[site]))]] = False
    return NeuronSet(masks)


def with_zeroed_neurons(model, neurons: NeuronSet):
    """Returns a copy of the model in which the parameters of these neurons are zero."""
    model = copy.deepcopy(model)
    for site, mask in neurons.sites.items():
        for layer, n in mask.nonzero().tolist():
            zero_neuron(layers_of(model)[layer], site, n, model.config)
    return model
