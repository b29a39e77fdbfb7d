"""Random tiny models of every supported family, and documents for them."""

import copy

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from pymultiling import SITES, NeuronSet

VOCABULARY = 61
SHAPE = dict(
    vocab_size=VOCABULARY,
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

# name: (configuration, model, what differs from SHAPE). Sliding windows are smaller than the documents.
MODELS = {
    "llama": (LlamaConfig, LlamaForCausalLM, dict(head_dim=12, attention_bias=True, mlp_bias=True)),
    "llama-one-head": (LlamaConfig, LlamaForCausalLM, dict(num_attention_heads=1, num_key_value_heads=1, head_dim=6)),
    "llama-yarn": (  # its tables carry a factor beside cosine and sine
        LlamaConfig,
        LlamaForCausalLM,
        dict(rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=8.0, original_max_position_embeddings=8)),
    ),
    "llama-large-key-bias": (LlamaConfig, LlamaForCausalLM, dict(attention_bias=True)),
    "mistral": (MistralConfig, MistralForCausalLM, dict(head_dim=8, sliding_window=4)),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, dict(rope_parameters=dict(rope_type="default", rope_theta=1e6))),
    "qwen2-sliding": (
        Qwen2Config,
        Qwen2ForCausalLM,
        dict(use_sliding_window=True, sliding_window=3, max_window_layers=1),
    ),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, dict(head_dim=16)),
    "qwen3-bias": (Qwen3Config, Qwen3ForCausalLM, dict(head_dim=8, attention_bias=True)),
    "gemma": (GemmaConfig, GemmaForCausalLM, dict(head_dim=16, num_key_value_heads=1)),
    "gemma2": (
        Gemma2Config,
        Gemma2ForCausalLM,
        dict(head_dim=8, sliding_window=4, attn_logit_softcapping=2.0, query_pre_attn_scalar=5),
    ),
    "gemma2-bias": (Gemma2Config, Gemma2ForCausalLM, dict(head_dim=8, attention_bias=True)),
    "gemma3_text": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        dict(head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"]),
    ),
    "phi3": (Phi3Config, Phi3ForCausalLM, dict(sliding_window=5)),
    "phi3-partial-rotary": (
        Phi3Config,
        Phi3ForCausalLM,
        dict(rope_parameters=dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5)),
    ),
    "starcoder2": (Starcoder2Config, Starcoder2ForCausalLM, dict(sliding_window=4)),  # a plain FFN, biases everywhere
}
# One model of each family, for what does not depend on the variants.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3-partial-rotary", "starcoder2")


def tiny_model(name: str, dtype: torch.dtype = torch.float32, seed: int = 0, **changes):
    """The same weights in any dtype (drawn in float32, then cast); every parameter is random."""
    configuration, kind, differences = MODELS[name]
    config = configuration(**{**SHAPE, **differences, **changes})
    if name.startswith("gemma2"):
        config._attn_implementation = "eager"  # transformers' sdpa has no soft caps
    model = kind(config).eval()
    _draw(model, torch.Generator().manual_seed(seed))
    for layer in model.model.layers if name in ("qwen2", "llama-large-key-bias") else ():
        _enlarge_key_bias(layer.self_attn, slow_only=name == "qwen2")
    return model.to(dtype)


@torch.no_grad()
def _draw(model, generator) -> None:
    offset = "Gemma" in type(model).__name__  # Gemma's norms multiply by 1 + weight
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            noise = 0.3 * noise + (0 if offset else 1)
        elif parameter.ndim == 2 and "embed" not in name:
            noise = noise * parameter.shape[1] ** -0.5
        elif name.endswith("bias"):
            noise = 0.5 * noise
        parameter.copy_(noise)


@torch.no_grad()
def _enlarge_key_bias(attention, slow_only: bool) -> None:
    """Key biases of +-300; Qwen2's own are on the dimensions that turn slowly."""
    bias = attention.k_proj.bias.view(-1, attention.head_dim)
    slow = torch.arange(attention.head_dim) % (attention.head_dim // 2) >= attention.head_dim // 4
    bias[:, slow if slow_only else slice(None)] = 300 * bias[:, slow if slow_only else slice(None)].sign()


def tiny_batch(lengths=(11, 7), padding: str = "right", seed: int = 0) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask of documents of these lengths, padded on one side with token 0."""
    generator = torch.Generator().manual_seed(seed)
    shape = len(lengths), max(lengths)
    input_ids = torch.zeros(shape, dtype=torch.int64)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    for row, length in enumerate(lengths):
        place = slice(0, length) if padding == "right" else slice(shape[1] - length, None)
        input_ids[row, place] = torch.randint(3, VOCABULARY, (length,), generator=generator)
        attention_mask[row, place] = 1
    return dict(input_ids=input_ids, attention_mask=attention_mask)


def positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """Position ids that start with 0 at a document's first token."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


def sizes(config) -> dict[str, int]:
    """Neurons a layer, from the configuration alone."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    query, key = config.num_attention_heads * head, config.num_key_value_heads * head
    return dict(ffn=config.intermediate_size, q=query, k=key, v=key, o=query)


def ffn_modules(mlp):
    """What makes gate, up and the output: one module may be both gate and up."""
    if hasattr(mlp, "c_fc"):
        return mlp.c_fc, mlp.c_fc, mlp.c_proj
    if hasattr(mlp, "gate_up_proj"):
        return mlp.gate_up_proj, mlp.gate_up_proj, mlp.down_proj
    return mlp.gate_proj, mlp.up_proj, mlp.down_proj


def zero_neuron(layer, site: str, n: int, config, ffn_part: str = "all") -> None:
    """Sets the parameters of neuron n of a decoder layer to zero, in place. ffn_part: "gate", "up", "down" or "all"."""
    attention, mlp, width = layer.self_attn, layer.mlp, sizes(config)
    fused = config.model_type == "phi3"
    if site == "o":
        attention.o_proj.weight.data[:, n] = 0
    elif site == "ffn":
        gate, up, down = ffn_modules(mlp)
        if ffn_part in ("gate", "all"):
            _zero_row(gate, n)
        if ffn_part in ("up", "all"):
            _zero_row(up, n + (width["ffn"] if fused else 0))
        if ffn_part in ("down", "all"):
            down.weight.data[:, n] = 0
    elif fused:
        _zero_row(attention.qkv_proj, n + {"q": 0, "k": width["q"], "v": width["q"] + width["k"]}[site])
    else:
        _zero_row(getattr(attention, f"{site}_proj"), n)


def some_neurons(model, fraction: float = 0.2, seed: int = 0, sites=SITES) -> NeuronSet:
    """A random set of a model's neurons, some of every site and layer."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for site in sites:
        width = sizes(model.config)[site]
        drawn[site] = torch.rand(model.config.num_hidden_layers, width, generator=generator) < fraction
        drawn[site][:, int(torch.randint(width, (), generator=generator))] = True
    return NeuronSet(drawn)


def zeroed(model, neurons: NeuronSet):
    """A copy of the model with the parameters of these neurons set to zero."""
    model = copy.deepcopy(model)
    for site, mask in neurons.sites.items():
        for layer, n in mask.nonzero().tolist():
            zero_neuron(model.model.layers[layer], site, n, model.config)
    return model


def _zero_row(linear, n: int) -> None:
    linear.weight.data[n] = 0
    if linear.bias is not None:
        linear.bias.data[n] = 0
