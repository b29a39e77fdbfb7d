"""The modules and parameters of each family's layers, as transformers' code defines them.

Nothing of the package is used here, so tests can compare the package with it.
"""

import torch

# The names of modules in most models, and for other models the names that differ, by model_type.
NAMES = dict(layers="layers", attention="self_attn", o="o_proj", norm="norm")
ENCODER = dict(
    layers="encoder.layer", attention="attention", o="output.dense", q="self.query", k="self.key", v="self.value"
)
T5 = dict(layers="encoder.block", attention="layer.0.SelfAttention", o="o", q="q", k="k", v="v")
OTHER_NAMES = {
    "gpt2": dict(layers="h", norm="ln_f", attention="attn", o="c_proj", qkv="c_attn"),
    "gpt_neox": dict(norm="final_layer_norm", attention="attention", o="dense", qkv="query_key_value"),
    "bloom": dict(layers="h", norm="ln_f", attention="self_attention", o="dense", qkv="query_key_value"),
    "falcon": dict(layers="h", norm="ln_f", attention="self_attention", o="dense", qkv="query_key_value"),
    "opt": dict(layers="decoder.layers", norm="decoder.final_layer_norm", o="out_proj"),
    "xglm": dict(norm="layer_norm", o="out_proj"),
    "gpt_neo": dict(layers="h", norm="ln_f", attention="attn.attention", o="out_proj"),
    "openai-gpt": dict(layers="h", attention="attn", o="c_proj", qkv="c_attn"),
    "gptj": dict(layers="h", norm="ln_f", attention="attn", o="out_proj"),
    "gpt_neox_japanese": dict(norm="final_layer_norm", attention="attention", o="dense", qkv="query_key_value"),
    "codegen": dict(layers="h", norm="ln_f", attention="attn", o="out_proj", qkv="qkv_proj"),
    "mpt": dict(layers="blocks", norm="norm_f", attention="attn", o="out_proj", qkv="Wqkv"),
    "biogpt": dict(norm="layer_norm", o="out_proj"),
    "gpt_bigcode": dict(layers="h", norm="ln_f", attention="attn", o="c_proj", qkv="c_attn"),
    "persimmon": dict(norm="final_layernorm", o="dense", qkv="query_key_value"),
    "phi": dict(norm="final_layernorm", o="dense"),
    "phi3": dict(qkv="qkv_proj"),
    "bert": ENCODER,
    "roberta": ENCODER,
    "t5": T5,
    "mt5": T5,
    "m2m_100": dict(layers="encoder.layers", o="out_proj"),
    "modernbert": dict(attention="attn", o="Wo", norm="final_norm", qkv="Wqkv"),
    "dbrx": dict(layers="blocks", attention="norm_attn_norm.attn", o="out_proj", norm="norm_f", qkv="Wqkv"),
    "xlm-roberta": ENCODER,
    **dict.fromkeys(("camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert"), ENCODER),
    **dict.fromkeys(("roberta-prelayernorm", "xlm-roberta-xl", "xmod"), ENCODER),
    "ctrl": dict(layers="h", norm="layernorm", attention="multi_head_attention", o="dense", q="Wq", k="Wk", v="Wv"),
    "modernbert-decoder": dict(attention="attn", o="Wo", norm="final_norm"),
    "phi4_multimodal": dict(qkv="qkv_proj"),
}


# {model_type of a mixture of experts: field of the configuration that has the number of experts}
EXPERT_COUNT_FIELDS = {
    "mixtral": "num_local_experts",
    "gpt_oss": "num_local_experts",
    "phimoe": "num_local_experts",
    "qwen2_moe": "num_experts",
    "qwen3_moe": "num_experts",
    "ernie4_5_moe": "num_experts",
    "glm4_moe": "n_routed_experts",
    "llama4_text": "num_local_experts",
    "dots1": "n_routed_experts",
    "flex_olmo": "num_experts",
    "afmoe": "num_experts",
    "exaone_moe": "num_experts",
    "mimo_v2_flash": "n_routed_experts",
    "minimax": "num_local_experts",
    "minimax_m2": "num_local_experts",
    "hunyuan_v1_moe": "num_experts",
    "cohere2_moe": "num_experts",
    "granitemoe": "num_local_experts",
    "granitemoeshared": "num_local_experts",
    "granitemoe_swa": "num_local_experts",
    "olmoe": "num_experts",
    "qwen3_next": "num_experts",
    "qwen3_5_moe_text": "num_experts",
    "deepseek_v2": "n_routed_experts",
    "deepseek_v3": "n_routed_experts",
    "glm4_moe_lite": "n_routed_experts",
    "mistral4": "n_routed_experts",
    "solar_open": "n_routed_experts",
    "hy_v3": "num_experts",
    "mellum": "num_experts",
    "laguna": "num_experts",
    "kolibri1": "num_experts",
    "flint": "num_experts",
    "aria_text": "moe_num_experts",
    "axk1": "n_routed_experts",
}
# Kinds of models that have as many key heads as query heads, or one.
WITHOUT_GROUPS = ("gpt2", "gpt_neox", "bloom", "falcon", "opt", "xglm", "biogpt", "gpt_bigcode", "persimmon",
                  "codegen", "gpt_neo", "gptj", "gpt_neox_japanese", "mpt", "openai-gpt",
                  "bert", "roberta", "modernbert", "xlm-roberta", "t5", "mt5", "m2m_100",
                  "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert",
                  "roberta-prelayernorm", "xlm-roberta-xl", "xmod", "ctrl", "modernbert-decoder")  # fmt: skip
# Kinds of models whose values pass a norm, and whose last layers take the keys and values of earlier ones.
NORMED_VALUES = ("gemma3n_text", "gemma4_text", "gemma4_unified_text")
# Kinds of models in which one projection gives, for every head, the query and the gate of the attention's output.
GATED = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
# Kinds of models some of whose layers have linear attention.
WITH_LINEAR = (*GATED, "minimax", "olmo_hybrid")
# Kinds of models with multi-head latent attention.
LATENT = ("axk1", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3", "mistral4", "youtu")


def module_name(config, part: str) -> str | None:
    """Returns the name of "layers", "attention", "o", "norm" or "qkv", or None where the model has no such module."""
    return {**NAMES, **OTHER_NAMES.get(config.model_type, {})}.get(part)


def base_of(model) -> torch.nn.Module:
    """Returns the model without its head. The `base_model` of Llama 4 is the whole model."""
    return getattr(model, "model", model) if model.config.model_type == "llama4_text" else model.base_model


def layers_of(model) -> torch.nn.ModuleList:
    """Returns the decoder layers."""
    return base_of(model).get_submodule(module_name(model.config, "layers"))


def attention_of(layer, config) -> torch.nn.Module | None:
    """Returns the attention of a decoder layer; None where it has linear attention."""
    name = module_name(config, "attention")
    if config.model_type in WITH_LINEAR and not hasattr(layer, name):
        return None
    attention = layer.get_submodule(name)
    return None if type(attention).__name__ == "MiniMaxLightningAttention" else attention


def has_site(config, site: str, layer: int) -> bool:
    """Whether a layer has neurons of a site, from the configuration alone."""
    return layer_sizes(config, layer)[site] > 0


def output_of(layer, config) -> torch.nn.Module:
    """Returns the output projection of the attention."""
    return attention_of(layer, config).get_submodule(module_name(config, "o"))


def ffn_of(layer) -> torch.nn.Module:
    """Returns the FFN of a decoder layer, or the layer itself if the FFN's modules are attributes of it."""
    if hasattr(layer, "layer"):  # T5's
        return layer.layer[1].DenseReluDense
    found = (getattr(layer, name, None) for name in ("mlp", "feed_forward", "block_sparse_moe", "ffn"))
    return next((module for module in found if module is not None), layer)


def ffn_modules(layer) -> tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module]:
    """Returns the FFN's modules of gate, up and down. In a plain or a fused FFN gate and up are the same module."""
    ffn = ffn_of(layer)
    for names in (
        ("c_fc", "c_fc", "c_proj"),
        ("fc1", "fc1", "fc2"),
        ("fc_in", "fc_in", "fc_out"),
        ("dense_h_to_4h", "dense_h_to_4h", "dense_4h_to_h"),
        ("gate_up_proj", "gate_up_proj", "down_proj"),
        ("gate_proj", "up_proj", "down_proj"),
        ("up_proj", "up_proj", "down_proj"),
        ("Wi", "Wi", "Wo"),
        ("wi", "wi", "wo"),
        ("wi_0", "wi_1", "wo"),
        ("intermediate.dense", "intermediate.dense", "output.dense"),
        ("0", "0", "2"),
    ):
        if hasattr(ffn, names[0].split(".")[0]):
            return tuple(ffn.get_submodule(name) for name in names)
    raise AssertionError(f"the FFN has none of the known modules: {ffn}")


def experts_of(layer) -> torch.nn.Module | None:
    """Returns the module of experts; None for a dense FFN."""
    return getattr(ffn_of(layer), "experts", None)


def is_gpt_oss(experts) -> bool:
    """Whether experts have the parameters of gpt-oss: transposed, with biases, and with gate and up in turn."""
    return type(experts).__name__ == "GptOssExperts"


def is_transposed(experts) -> bool:
    """Whether experts store their weights as (experts, inputs, outputs)."""
    return type(experts).__name__ in ("GptOssExperts", "Llama4TextExperts", "AriaExperts")


def expert_weights(experts) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns views of the parameters of gate (E, I, D), up (E, I, D) and down (E, D, I)."""
    if type(experts).__name__ == "DbrxExperts":  # each is one matrix, (E I, D)
        parts = (getattr(experts.mlp, name).data for name in ("w1", "v1", "w2"))
        gate, up, down = (part.view(experts.num_experts, -1, part.shape[1]) for part in parts)
        return gate, up, down.mT
    return expert_parts(experts, experts.gate_up_proj.data, experts.down_proj.data)


def expert_parts(experts, gate_up, down) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns views of gate (E, I, D), up (E, I, D) and down (E, D, I).

    Args:
        experts: the module of experts.
        gate_up: its gate_up_proj, or a tensor in this shape, such as the gradient.
        down: its down_proj, or a tensor in this shape.
    """
    if is_gpt_oss(experts):
        return gate_up.mT[:, ::2], gate_up.mT[:, 1::2], down.mT
    if is_transposed(experts):
        return (*gate_up.mT.chunk(2, 1), down.mT)
    return (*gate_up.chunk(2, 1), down)


def shared_expert_of(layer) -> torch.nn.Module | None:
    """Returns the expert that all tokens pass, whose neurons come after those of `experts_of`, or None."""
    mlp = ffn_of(layer)
    found = (getattr(mlp, name, None) for name in ("shared_expert", "shared_experts", "shared_mlp"))
    return next((module for module in found if module is not None), getattr(layer, "shared_mlp", None))


def routed_gate_and_up(experts, states, index, fill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns gate and up, (tokens, E I) each, as eager experts compute them.

    Args:
        experts: the module of experts.
        states: (tokens, D), the inputs of the experts.
        index: (tokens, k) int64, the experts that the router chose for each token.
        fill: the value where a token is not routed to the neuron's expert.
    """
    count, width = len(experts.down_proj), experts.gate_up_proj.shape[2 if is_gpt_oss(experts) else 1]
    gate_up = states.new_full((len(states), count, width), fill)
    for e in range(count):
        tokens = torch.where((index == e).T)[1]
        if is_gpt_oss(experts):
            gate_up[tokens, e] = states[tokens] @ experts.gate_up_proj[e] + experts.gate_up_proj_bias[e]
        else:
            gate_up[tokens, e] = torch.nn.functional.linear(states[tokens], experts.gate_up_proj[e])
    parts = (gate_up[..., ::2], gate_up[..., 1::2]) if is_gpt_oss(experts) else gate_up.chunk(2, -1)
    return tuple(part.flatten(1) for part in parts)


def sizes(config) -> dict[str, int]:
    """Returns {site: number of neurons of the widest layer}, from the configuration alone."""
    layers = [layer_sizes(config, layer) for layer in range(config.num_hidden_layers)]
    return {site: max(layer[site] for layer in layers) for site in layers[0]}


def is_dense(config, layer: int) -> bool:
    """Whether a layer of a mixture of experts has an FFN in place of the experts."""
    kinds = getattr(config, "mlp_layer_types", None)
    if kinds:
        return kinds[layer] == "dense"
    if config.model_type == "ernie4_5_moe":
        return not config.moe_layer_start_index <= layer <= config.moe_layer_end_index
    if config.model_type == "llama4_text":
        return layer not in config.moe_layers
    sparse_step = getattr(config, "decoder_sparse_step", 1)
    return (
        layer < getattr(config, "first_k_dense_replace", 0)
        or layer in getattr(config, "mlp_only_layers", ())
        or (layer + 1) % sparse_step != 0
    )


def layer_sizes(config, layer: int) -> dict[str, int]:
    """Returns {site: number of neurons of a layer}, from the configuration alone."""
    if config.model_type in NORMED_VALUES:
        return _gemma_sizes(config, layer)
    sizes_of_head = (getattr(config, name, None) for name in ("head_dim", "d_kv"))
    head = next((size for size in sizes_of_head if size), config.hidden_size // config.num_attention_heads)
    query, key = config.num_attention_heads * head, key_heads(config) * head
    ffn_fields = {
        "gpt2": "n_inner",
        "gpt_bigcode": "n_inner",
        "gptj": "n_inner",
        "codegen": "n_inner",
        "ctrl": "dff",
        "opt": "ffn_dim",
        "t5": "d_ff",
        "mt5": "d_ff",
        "m2m_100": "encoder_ffn_dim",
        "xglm": "ffn_dim",
        "falcon": "ffn_hidden_size",
        "qwen2_moe": "moe_intermediate_size",
        "qwen3_moe": "moe_intermediate_size",
        "ernie4_5_moe": "moe_intermediate_size",
        "glm4_moe": "moe_intermediate_size",
        "mimo_v2_flash": "moe_intermediate_size",
        "dots1": "moe_intermediate_size",
        "afmoe": "moe_intermediate_size",
        "exaone_moe": "moe_intermediate_size",
        "qwen3_next": "moe_intermediate_size",
        "qwen3_5_moe_text": "moe_intermediate_size",
        "deepseek_v2": "moe_intermediate_size",
        "deepseek_v3": "moe_intermediate_size",
        "glm4_moe_lite": "moe_intermediate_size",
        "mistral4": "moe_intermediate_size",
        "solar_open": "moe_intermediate_size",
        "hy_v3": "moe_intermediate_size",
        "mellum": "moe_intermediate_size",
        "laguna": "moe_intermediate_size",
        "kolibri1": "moe_intermediate_size",
        "flint": "moe_intermediate_size",
        "axk1": "moe_intermediate_size",
    }
    if config.model_type in WITH_LINEAR and config.layer_types[layer] != "full_attention":
        query = key = 0
    ffn = getattr(config, ffn_fields.get(config.model_type, "intermediate_size"), None)
    if config.model_type in ("bloom", "gpt_neox_japanese", "mpt", "openai-gpt"):
        ffn = 4 * config.hidden_size
    if config.model_type == "dbrx":
        ffn = config.ffn_config.moe_num_experts * config.ffn_config.ffn_hidden_size
    if config.model_type == "laguna":
        query = config.num_attention_heads_per_layer[layer] * head
    if config.model_type in EXPERT_COUNT_FIELDS and is_dense(config, layer):
        ffn = dense_width(config)
    elif config.model_type in EXPERT_COUNT_FIELDS:
        ffn *= getattr(config, EXPERT_COUNT_FIELDS[config.model_type])
        ffn += shared_width(config)
    if config.model_type in LATENT:
        heads, own, shared = config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim
        values = heads * config.v_head_dim
        return dict(ffn=ffn, q=heads * (own + shared), k=heads * own + shared, v=values, o=values)
    if config.model_type == "mimo_v2_flash":
        heads, keys = config.num_attention_heads, key_heads(config)
        keys *= 2 if config.layer_types[layer] == "sliding_attention" else 1
        return dict(ffn=ffn, q=query, k=keys * head, v=keys * config.v_head_dim, o=heads * config.v_head_dim)
    return dict(ffn=ffn, q=query, k=key, v=key, o=query)


def dense_width(config) -> int:
    """Returns the number of FFN neurons of a layer without experts in a mixture of experts."""
    names = {"llama4_text": "intermediate_size_mlp", "cohere2_moe": "prefix_dense_intermediate_size"}
    return getattr(config, names.get(config.model_type, "intermediate_size"))


def shared_width(config) -> int:
    """Returns the number of neurons of a shared expert; 0 if the model has none."""
    if config.model_type in ("llama4_text", "hunyuan_v1_moe"):
        return config.intermediate_size
    if config.model_type == "cohere2_moe":
        return config.intermediate_size * config.num_shared_experts
    if config.model_type in ("granitemoeshared", "granitemoe_swa"):
        return config.shared_intermediate_size
    if config.model_type == "aria_text":
        return config.intermediate_size * config.moe_num_shared_experts
    if config.model_type in ("qwen2_moe", "qwen3_next", "qwen3_5_moe_text", "laguna", "kolibri1", "flint"):
        return config.shared_expert_intermediate_size
    count = {
        "ernie4_5_moe": "moe_num_shared_experts",
        "deepseek_v2": "n_shared_experts",
        "deepseek_v3": "n_shared_experts",
        "glm4_moe": "n_shared_experts",
        "glm4_moe_lite": "n_shared_experts",
        "mistral4": "n_shared_experts",
        "dots1": "n_shared_experts",
        "exaone_moe": "num_shared_experts",
        "afmoe": "num_shared_experts",
        "solar_open": "n_shared_experts",
        "hy_v3": "num_shared_experts",
        "axk1": "n_shared_experts",
    }.get(config.model_type)
    return 0 if count is None else config.moe_intermediate_size * getattr(config, count)


def _gemma_sizes(config, layer: int) -> dict[str, int]:
    takes_keys = layer >= config.num_hidden_layers - config.num_kv_shared_layers
    own, has_values = config, not takes_keys
    if config.model_type in ("gemma4_text", "gemma4_unified_text"):
        own = config.per_layer_config[layer]
        has_values &= not (config.attention_k_eq_v and config.layer_types[layer] == "full_attention")
        ffn = config.intermediate_size * (2 if config.use_double_wide_mlp and takes_keys else 1)
    else:
        ffn = config.intermediate_size[layer]
    query, key = config.num_attention_heads * own.head_dim, own.num_key_value_heads * own.head_dim
    return dict(ffn=ffn, q=query, k=0 if takes_keys else key, v=key if has_values else 0, o=query)


def key_heads(config) -> int:
    """Returns the number of key-value heads."""
    if config.model_type == "falcon" and config.new_decoder_architecture:
        return config.num_kv_heads
    if config.model_type in ("falcon", "gpt_bigcode") and config.multi_query:
        return 1
    if config.model_type in WITHOUT_GROUPS:
        return config.num_attention_heads
    return config.num_key_value_heads


def rows_of(config, site: str) -> torch.Tensor | None:
    """Returns the indices of the rows of site "q", "k" or "v" in a projection of several things, (neurons,) int64.

    They are sliced as the model slices the projection's output. None: the site has its own projection.
    """
    if config.model_type in GATED and site == "q":
        head = config.head_dim
        return torch.arange(2 * sizes(config)["q"]).view(-1, 2 * head)[:, :head].flatten()
    if module_name(config, "qkv") is None:
        return None
    width, heads, keys = sizes(config), config.num_attention_heads, key_heads(config)
    rows, head = torch.arange(width["q"] + 2 * width["k"]), width["q"] // heads
    shares_keys = config.model_type == "gpt_bigcode" and config.multi_query
    if shares_keys or config.model_type in (
        "dbrx", "gpt2", "modernbert", "mpt", "openai-gpt", "phi3", "phi4_multimodal"
    ):  # fmt: skip
        parts = rows.split([width["q"], width["k"], width["v"]])
    elif config.model_type == "codegen":  # four blocks, each of the queries, then the values, then the keys
        by_block = rows.view(4, 3, -1)
        parts = by_block[:, 0], by_block[:, 2], by_block[:, 1]
    elif config.model_type in ("gpt_neox", "gpt_neox_japanese", "gpt_bigcode"):
        parts = rows.view(heads, 3 * head).chunk(3, -1)
    elif config.model_type == "falcon" and config.new_decoder_architecture:
        by_head = rows.view(keys, heads // keys + 2, head)
        parts = by_head[:, :-2], by_head[:, -2], by_head[:, -1]
    elif config.model_type == "falcon" and config.multi_query:
        by_head = rows.view(heads + 2, head)
        parts = by_head[:-2], by_head[-2], by_head[-1]
    else:
        parts = rows.view(heads, 3, head).unbind(1)
    return parts["qkv".index(site)].flatten()


def latent_row(attention, config, site: str, n: int) -> tuple[torch.nn.Module, int]:
    """Returns the projection and the row of neuron n of "q", "k" or "v" in multi-head latent attention.

    The k neurons are those of each head, rows of kv_b_proj in turn with the values, and then those of the key that all
    heads share, the last rows of kv_a_proj_with_mqa.
    """
    heads, own, value = config.num_attention_heads, config.qk_nope_head_dim, config.v_head_dim
    if site == "q":
        return attention.q_proj if config.q_lora_rank is None else attention.q_b_proj, n
    if site == "k" and n >= heads * own:
        return attention.kv_a_proj_with_mqa, config.kv_lora_rank + n - heads * own
    head, dimension = divmod(n, own if site == "k" else value)
    return attention.kv_b_proj, head * (own + value) + dimension + (0 if site == "k" else own)


def zero_neuron(layer, site: str, n: int, config, ffn_part: str = "all") -> None:
    """Sets the parameters of neuron n of a decoder layer to zero, in place.

    ffn_part: which parameters of an FFN neuron: its row of "gate", its row of "up", its column of "down", or "all".
        Of Gemma3n "all" are the other two, because its sparse gates depend on the mean over all neurons.
    """
    if config.model_type == "gemma3n_text" and ffn_part == "all":
        ffn_part = "down"
    attention = attention_of(layer, config)
    if site == "o":
        weight_of(output_of(layer, config)).data[:, n] = 0
    elif site == "ffn" and experts_of(layer) is not None:
        experts, shared = experts_of(layer), shared_expert_of(layer)
        down = expert_weights(experts)[2]
        routed = len(down) * down.shape[2]
        if n < routed:
            zero_expert_neuron(experts, n, ffn_part)
        else:
            _zero_shared_neuron(shared, n - routed, ffn_part)
    elif site == "ffn":
        gate, up, down = ffn_modules(layer)
        fused = ("phi3", "phi4_multimodal", "glm", "glm4", "modernbert", "modernbert-decoder")
        is_fused = config.model_type in fused
        _zero_dense_neuron(gate, up, down, n, n + (sizes(config)["ffn"] if is_fused else 0), ffn_part)
    elif config.model_type in LATENT:
        _zero_row(*latent_row(attention, config, site, n))
    elif (rows := rows_of(config, site)) is not None:
        _zero_row(getattr(attention, module_name(config, "qkv") or f"{site}_proj"), int(rows[n]))
    else:
        _zero_row(attention.get_submodule(module_name(config, site) or f"{site}_proj"), n)


def _zero_shared_neuron(shared, n: int, part: str) -> None:
    if hasattr(shared, "input_linear"):  # Granite's has gate and up in one projection
        gate_up, down = shared.input_linear, shared.output_linear
        _zero_dense_neuron(gate_up, gate_up, down, n, n + down.in_features, part)
    else:
        _zero_dense_neuron(shared.gate_proj, shared.up_proj, shared.down_proj, n, n, part)


def _zero_dense_neuron(gate, up, down, n: int, up_row: int, part: str) -> None:
    if part in ("gate", "all"):
        _zero_row(gate, n)
    if part in ("up", "all"):
        _zero_row(up, up_row)
    if part in ("down", "all"):
        weight_of(down).data[:, n] = 0


def zero_expert_neuron(experts, n: int, part: str = "all") -> None:
    """Sets the parameters of neuron n = e I + i to zero, in place: neuron i of expert e, which has I neurons."""
    gate, up, down = expert_weights(experts)
    e, i = divmod(n, down.shape[2])
    if part in ("gate", "all"):
        gate[e, i] = 0
    if part in ("up", "all"):
        up[e, i] = 0
    if is_gpt_oss(experts):
        bias = experts.gate_up_proj_bias.data[e].view(-1, 2)[i]
        bias[{"gate": slice(0, 1), "up": slice(1, 2), "down": slice(0), "all": slice(2)}[part]] = 0
    if part in ("down", "all"):
        down[e, :, i] = 0


def weight_of(linear) -> torch.Tensor:
    """Returns the weight of a linear map as (outputs, inputs). Conv1D stores it transposed."""
    return linear.weight.T if type(linear).__name__ == "Conv1D" else linear.weight


def _zero_row(linear, n: int) -> None:
    """Sets row n of the weight and the bias of output n to zero."""
    weight_of(linear).data[n] = 0
    if linear.bias is not None:
        linear.bias.data[n] = 0
