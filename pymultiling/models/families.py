"""The registry of the supported families of decoders, with one entry for each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, cast

from pymultiling.errors import UnsupportedModel
from pymultiling.models.expert_families import EXPERT_FAMILIES
from pymultiling.models.family import Family
from pymultiling.models.pretrained import class_name, pretrained
from pymultiling.models.shared_entries import OLMO2, QWEN3_5, FamilyFunction, latent_attention, query_scaling, youtu
from pymultiling.models.unwrap import refuse_peft

if TYPE_CHECKING:
    from torch import nn
    from transformers import (
        BertConfig,
        BloomConfig,
        CamembertConfig,
        CohereConfig,
        Data2VecTextConfig,
        ElectraConfig,
        ErnieConfig,
        Exaone4Config,
        FalconConfig,
        Gemma4TextConfig,
        GPTBigCodeConfig,
        GPTNeoConfig,
        HyperCLOVAXConfig,
        MegatronBertConfig,
        Ministral3Config,
        MptConfig,
        MT5Config,
        OlmoConfig,
        OpenAIGPTConfig,
        PersimmonConfig,
        PhiConfig,
        PreTrainedConfig,
        RemBertConfig,
        RobertaConfig,
        RobertaPreLayerNormConfig,
        StableLmConfig,
        T5Config,
        XLMRobertaConfig,
        XLMRobertaXLConfig,
        XmodConfig,
    )
    from transformers.models.mpt.configuration_mpt import MptAttentionConfig

    # Those that count positions behind that of padding, and all encoders with BERT's modules.
    RobertaLikeConfig: TypeAlias = (
        CamembertConfig
        | Data2VecTextConfig
        | RobertaConfig
        | RobertaPreLayerNormConfig
        | XLMRobertaConfig
        | XLMRobertaXLConfig
        | XmodConfig
    )
    BertLikeConfig: TypeAlias = (
        BertConfig | ElectraConfig | ErnieConfig | MegatronBertConfig | RemBertConfig | RobertaLikeConfig
    )


# Layers as fairseq has them: the modules of the FFN are attributes of the layer.
_FAIRSEQ = Family(
    final=("layer_norm",),
    rotation=None,
    o="out_proj",
    ffn="",
    gate=None,
    up="fc1",
    down="fc2",
    ffn_alone=False,
)

_GPT2 = Family(
    layers="h",
    final=("ln_f",),
    attention="attn",
    qkv="c_attn",
    rotation=None,
    o="c_proj",
    gate=None,
    up="c_fc",
    down="c_proj",
)

_GPTJ = Family(
    layers="h",
    final=("ln_f",),
    attention="attn",
    interface=False,
    rotation="position_ids",
    interleaved=True,
    rotation_table="embed_positions",
    o="out_proj",
    gate=None,
    up="fc_in",
    down="fc_out",
)

# The last layers take the keys and values of earlier ones.
_GEMMA3N = replace(OLMO2, shared_keys=("is_kv_shared_layer", "shared_kv_states"), v_norm="v_norm")
_GEMMA4 = replace(_GEMMA3N, keys_as_values="use_alternative_attention")


def _bert(config: BertLikeConfig) -> Family:
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


def _roberta(config: RobertaLikeConfig) -> Family:
    # Positions are counted behind that of padding, which is the number of its token.
    return replace(_bert(config), first_position=cast("int", config.pad_token_id) + 1)


def _rembert(config: RemBertConfig) -> Family:
    return replace(_bert(config), interface=False)


def _with_norms_before(family: Family, final: str) -> Family:
    """Returns an entry with BERT's modules for an encoder whose norms come before the sublayers."""
    return replace(family, final=(final,), sum_norms=None, sums=("attention.output", "output"))


def _megatron_bert(config: MegatronBertConfig) -> Family:
    return replace(_with_norms_before(_bert(config), "encoder.ln"), interface=False)


def _roberta_prelayernorm(config: RobertaPreLayerNormConfig) -> Family:
    return _with_norms_before(_roberta(config), "LayerNorm")


def _xlm_roberta_xl(config: XLMRobertaXLConfig) -> Family:
    return _with_norms_before(_roberta(config), "encoder.LayerNorm")


def _xmod(config: XmodConfig) -> Family:
    """The adapters of the language follow the sum of the residual and the FFN's output, and are no part of the FFN."""
    if config.default_language is None:
        raise UnsupportedModel(
            "this xmod does not say whose language's adapters run: call model.set_default_language(...) with one of "
            f"{', '.join(config.languages)}, or set default_language in its config.json"
        )
    family = _roberta(config)
    if config.pre_norm:
        return replace(_with_norms_before(family, "encoder.LayerNorm"), sums=("attention.output",))
    if config.adapter_layer_norm:
        return replace(family, sum_norms=("attention.output.LayerNorm", "output.adapter_layer_norm"))
    if not config.adapter_reuse_layer_norm:
        raise UnsupportedModel(
            "this xmod has no norm between its FFN and the adapters of the language, which is not supported: use a "
            "model whose configuration has adapter_reuse_layer_norm or adapter_layer_norm"
        )
    return family  # the norm of the sum runs before the adapters, and once more behind them


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


def _exaone4(config: Exaone4Config) -> Family:
    return replace(OLMO2, rotates=None if config.sliding_window is None else "is_sliding")


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


def _gemma4(config: Gemma4TextConfig) -> Family:
    if config.enable_moe_block:
        raise UnsupportedModel(
            "this gemma4 norms the outputs of its FFN and of a mixture of experts, and then norms their sum, and no "
            "operator computes what a neuron changes behind two norms: use a model whose configuration has "
            "enable_moe_block = False"
        )
    return _GEMMA4


def _gpt_bigcode(config: GPTBigCodeConfig) -> Family:
    return replace(_GPT2, qkv_by_head=not config.multi_query)


def _gpt_neo(config: GPTNeoConfig) -> Family:
    return Family(
        layers="h",
        final=("ln_f",),
        attention="attn.attention",
        interface=False,
        score_scale=1.0,
        local_window=config.window_size,
        rotation=None,
        o="out_proj",
        gate=None,
        up="c_fc",
        down="c_proj",
    )


def _hyperclovax(config: HyperCLOVAXConfig) -> Family:
    norms = config.use_post_norm
    return Family(attention_norm="post_norm1" if norms else None, ffn_norm="post_norm2" if norms else None)


def _ministral3(config: Ministral3Config) -> Family:
    return Family(query_scaling=query_scaling(config))


def _mpt(config: MptConfig) -> Family:
    attention = cast("MptAttentionConfig", config.attn_config)
    return Family(
        layers="blocks",
        final=("norm_f",),
        positions=False,
        attention="attn",
        qkv="Wqkv",
        clip=attention.clip_qkv or None,
        interface=False,
        score_scale=attention.softmax_scale,
        rotation=None,
        alibi="added",
        alibi_keyword="position_bias",
        o="out_proj",
        ffn="ffn",
        gate=None,
        ffn_alone=False,
        activation="gelu",
    )


def _olmo(config: OlmoConfig) -> Family:
    return Family(clip=config.clip_qkv)


def _openai_gpt(config: OpenAIGPTConfig) -> Family:
    # Its code has names of its own for activations.
    activation = {"gelu": "gelu_new", "swish": "silu"}.get(config.afn, config.afn)
    return replace(_GPT2, final=(), interface=False, activation=activation)


def _persimmon(config: PersimmonConfig) -> Family:
    return Family(
        final=("final_layernorm",),
        qkv="query_key_value",
        qkv_by_head=True,
        q_norm="q_layernorm" if config.qk_layernorm else None,
        k_norm="k_layernorm" if config.qk_layernorm else None,
        centred_norms=True,
        o="dense",
        gate=None,
        up="dense_h_to_4h",
        down="dense_4h_to_h",
    )


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
    "internlm3": Family(),
    "iquestcoder": Family(),
    "emu3_text_model": Family(),
    "mistral": Family(),
    "ministral": Family(),
    "ministral3": _ministral3,
    "seed_oss": Family(),
    "cwm": Family(),
    "hunyuan_v1_dense": Family(q_norm="query_layernorm", k_norm="key_layernorm", norms_behind_rotation=True),
    "hyperclovax": _hyperclovax,
    "arcee": Family(gate=None),
    "jais2": Family(gate=None),
    "nanochat": Family(
        q_norm="q_norm", k_norm="k_norm", norms_behind_rotation=True, backwards=True, gate=None, up="fc1", down="fc2"
    ),
    "persimmon": _persimmon,
    "nemotron": Family(gate=None),
    "apertus": Family(q_norm="q_norm", k_norm="k_norm", gate=None, activation_parameters="act_fn"),
    "qwen2": Family(),
    "qwen2_vl_text": Family(),
    "qwen2_5_vl_text": Family(),
    "qwen3": Family(q_norm="q_norm", k_norm="k_norm"),
    "qwen3_vl_text": Family(q_norm="q_norm", k_norm="k_norm"),
    "gemma": Family(),
    "vaultgemma": Family(),
    "gemma2": Family(attention_norm="post_attention_layernorm", ffn_norm="post_feedforward_layernorm", norm_offset=1.0),
    "gemma3_text": replace(OLMO2, norm_offset=1.0),
    "gemma3n_text": replace(_GEMMA3N, gate_sparsity="activation_sparsity", hidden_streams=True),
    "gemma4_text": _gemma4,
    "gemma4_unified_text": _GEMMA4,
    "qwen3_5_text": QWEN3_5,
    "minicpm3": latent_attention,
    "youtu": youtu,
    "phi3": Family(qkv="qkv_proj", gate_up="gate_up_proj"),
    "phi4_multimodal": Family(qkv="qkv_proj", gate_up="gate_up_proj"),
    "starcoder2": Family(gate=None, up="c_fc", down="c_proj"),
    "gpt2": _GPT2,
    "gpt_bigcode": _gpt_bigcode,
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
    "gpt_neox_japanese": Family(
        final=("final_layer_norm",),
        attention="attention",
        qkv="query_key_value",
        qkv_by_head=True,
        interface=False,
        o="dense",
        gate=None,
        up="dense_h_to_4h",
        down="dense_4h_to_h",
    ),
    "openai-gpt": _openai_gpt,
    "gpt_neo": _gpt_neo,
    "gptj": _GPTJ,
    "codegen": replace(_GPTJ, qkv="qkv_proj", qkv_blocks=4),
    "ctrl": Family(
        layers="h",
        final=("layernorm",),
        attention="multi_head_attention",
        q="Wq",
        k="Wk",
        v="Wv",
        rotation=None,
        o="dense",
        ffn="ffn",
        gate=None,
        up="0",
        down="2",
        activation="relu",
    ),
    "mpt": _mpt,
    "bloom": _bloom,
    "opt": replace(
        _FAIRSEQ,
        layers="decoder.layers",
        final=("decoder.final_layer_norm", "decoder.project_out"),
        scaled_queries=True,
    ),
    "falcon": _falcon,
    "phi": _phi,
    "cohere": _cohere,
    "cohere2": Family(interleaved=True, rotates="sliding_window"),
    "cohere_compass_text": Family(),  # layers whose rope_parameters are None do not rotate
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
    "granite_swa": Family(sinks="sinks"),
    "smollm3": Family(rotates="use_rope"),
    "olmo": _olmo,
    "olmo2": OLMO2,
    "olmo3": OLMO2,
    # Layers of linear attention have a norm of the name of `attention_norm` elsewhere, and none of their outputs.
    "olmo_hybrid": replace(OLMO2, linear_attention="linear_attn", linear_ffn_norm=False),
    "biogpt": _FAIRSEQ,
    "bert": _bert,
    "camembert": _roberta,
    "data2vec-text": _roberta,
    "electra": _bert,
    "ernie": _bert,
    "megatron-bert": _megatron_bert,
    "rembert": _rembert,
    "roberta": _roberta,
    "roberta-prelayernorm": _roberta_prelayernorm,
    "t5": _t5,
    "mt5": _t5,
    "m2m_100": replace(_FAIRSEQ, is_pair=True, counts_padding=True, positions=False, causal=False),
    "modernbert": Family(
        final=("final_norm",),
        attention="attn",
        causal=False,
        qkv="Wqkv",
        o="Wo",
        gate_up="Wi",
        down="Wo",
    ),
    "modernbert-decoder": Family(final=("final_norm",), attention="attn", o="Wo", gate_up="Wi", down="Wo"),
    "xlm-roberta": _roberta,
    "xlm-roberta-xl": _xlm_roberta_xl,
    "xmod": _xmod,
    "xglm": replace(_FAIRSEQ, interface=False),
    **EXPERT_FAMILIES,
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
            "pymultiling.Family(...)), whose defaults are Llama's (families.py and expert_families.py in "
            "pymultiling/models have the others); on the command line in a file for --families"
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
