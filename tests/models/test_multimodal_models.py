"""Models that take images too: the neurons of their text decoder are measured and deactivated in the whole model."""

import copy

import pytest
import torch
import transformers

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.models.loading import load_model, load_without_weights
from pymultiling.probes.verification.body import sees_as_expected
from pymultiling.probes.verification.verify import verify
from tests.probes.test_masking import difference
from tests.support.anatomy import has_site, layers_of, zero_neuron
from tests.support.brute_force import brute_force
from tests.support.comparison import TOLERANCE, importance_in_float64, largest_error
from tests.support.tiny_models import (
    FURTHER_MODELS,
    GEMMA4,
    GEMMA4_UNIFIED,
    HALF_SLIDING,
    PARTIAL,
    SHAPE,
    random_neurons,
    tiny_batch,
)
from tests.support.tiny_text import save_model, texts, tiny_tokenizer

VISION = dict(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
)
IMAGE_TOKEN = 60
QWEN_VISION = dict(depth=1, num_heads=2, out_hidden_size=32, num_position_embeddings=16)
IMAGE_INDEX = dict(image_token_index=IMAGE_TOKEN)
IMAGE_ID = dict(image_token_id=IMAGE_TOKEN)
VIDEO_INDEX = dict(IMAGE_INDEX, video_token_index=IMAGE_TOKEN - 1)
QWEN_TOKENS = dict(
    IMAGE_ID, video_token_id=IMAGE_TOKEN - 1, vision_start_token_id=IMAGE_TOKEN - 2, vision_end_token_id=IMAGE_TOKEN - 3
)
CLIP = dict(model_type="clip_vision_model", projection_dim=16)
SIGLIP = dict(model_type="siglip_vision_model")
# The tables of the rotation take positions of time, height and width in turn. They are the same for text.
MROPE = dict(rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 1, 1]))
EMU3_IMAGES = dict(
    vq_config=dict(
        base_channels=32, codebook_size=8, hidden_size=32, channel_multiplier=[1], num_res_blocks=1, attn_resolutions=[]
    ),
    vocabulary_map={"<image>": IMAGE_TOKEN, "<|extra_200|>": IMAGE_TOKEN - 1},
)
# {prefix of transformers' classes: configurations of the text decoder and of the encoder of images, other fields}
MODELS = {
    "Gemma3": (dict(HALF_SLIDING, head_dim=8), {}, dict(mm_tokens_per_image=4, image_token_index=IMAGE_TOKEN)),
    "Gemma4": (
        GEMMA4,
        dict(num_key_value_heads=2, head_dim=8),
        dict(image_token_id=IMAGE_TOKEN, video_token_id=IMAGE_TOKEN - 1, audio_token_id=IMAGE_TOKEN - 2),
    ),
    "Mistral3": (
        dict(model_type="mistral", head_dim=8),
        dict(model_type="pixtral", head_dim=8),
        dict(image_token_index=IMAGE_TOKEN),
    ),
    "Mistral3 with Ministral 3": (
        dict(FURTHER_MODELS["ministral3"][1], model_type="ministral3"),
        dict(model_type="pixtral", head_dim=8),
        dict(image_token_index=IMAGE_TOKEN),
    ),
    "Mistral3 with Mistral 4": (
        dict(FURTHER_MODELS["mistral4"][1], model_type="mistral4"),
        dict(model_type="pixtral", head_dim=8),
        dict(image_token_index=IMAGE_TOKEN),
    ),
    "Llava": (
        dict(model_type="llama"),
        dict(model_type="clip_vision_model", projection_dim=16),
        dict(image_token_index=IMAGE_TOKEN),
    ),
    "AyaVision": (
        dict(HALF_SLIDING, model_type="cohere2"),
        dict(model_type="siglip_vision_model"),
        dict(image_token_index=IMAGE_TOKEN),
    ),
    "InternVL": (dict(model_type="qwen2"), dict(image_size=[8, 8], patch_size=[4, 4]), {}),
    "Llama4": (
        dict(FURTHER_MODELS["llama4_text"][1], model_type="llama4_text"),
        dict(vision_output_dim=16, projector_input_dim=16, projector_output_dim=16),
        dict(image_token_index=IMAGE_TOKEN),
    ),
    "Kimi_K25": (
        dict(FURTHER_MODELS["deepseek_v3"][1], model_type="deepseek_v3"),
        dict(pos_emb_height=4, pos_emb_width=4, pos_emb_time=1, patch_size=4),
        dict(image_token_id=IMAGE_TOKEN, video_token_id=IMAGE_TOKEN - 1, projection_hidden_size=16),
    ),
    "Qwen3_5": (FURTHER_MODELS["qwen3_5_text"][1], QWEN_VISION, dict(image_token_id=IMAGE_TOKEN)),
    "Qwen3_5Moe": (FURTHER_MODELS["qwen3_5_moe_text"][1], QWEN_VISION, dict(image_token_id=IMAGE_TOKEN)),
    "Qwen2VL": (MROPE, dict(depth=1, embed_dim=16, hidden_size=32, num_heads=2), QWEN_TOKENS),
    "Qwen2_5_VL": (
        dict(MROPE, use_sliding_window=True, sliding_window=4, max_window_layers=1),
        dict(depth=1, num_heads=2, out_hidden_size=32, fullatt_block_indexes=[0]),
        QWEN_TOKENS,
    ),
    "Qwen3VL": (
        dict(MROPE, head_dim=8, attention_bias=True),
        dict(QWEN_VISION, deepstack_visual_indexes=[0]),
        QWEN_TOKENS,
    ),
    "CohereCompass": (
        FURTHER_MODELS["cohere_compass_text"][1],
        dict(QWEN_VISION, deepstack_visual_indexes=[0]),
        QWEN_TOKENS,
    ),
    "Cohere2Vision": (dict(HALF_SLIDING, model_type="cohere2"), SIGLIP, dict(IMAGE_ID, alignment_intermediate_size=16)),
    "Emu3": (dict(bos_token_id=1), None, EMU3_IMAGES),
    "Exaone4_5_": (
        dict(HALF_SLIDING, sliding_window_pattern=2, model_type="exaone4"),
        dict(depth=1, num_heads=2, num_key_value_heads=1, out_hidden_size=32, fullatt_block_indexes=[0]),
        QWEN_TOKENS,
    ),
    "Fuyu": (dict(model_type="persimmon", rope_parameters=dict(PARTIAL)), None, dict(IMAGE_ID, patch_size=2)),
    "Gemma4Unified": (
        GEMMA4_UNIFIED,
        dict(mm_embed_dim=16, mm_posemb_size=4, output_proj_dims=32),
        dict(
            audio_config=dict(audio_embed_dim=16),
            image_token_id=IMAGE_TOKEN,
            video_token_id=IMAGE_TOKEN - 1,
            audio_token_id=IMAGE_TOKEN - 2,
        ),
    ),
    "GotOcr2": (
        dict(model_type="qwen2"),
        dict(output_channels=8, global_attn_indexes=[0], mlp_dim=16, window_size=2),
        IMAGE_INDEX,
    ),
    "Idefics3": (dict(model_type="llama"), {}, IMAGE_ID),
    "LightOnOcr": (dict(model_type="qwen3", head_dim=8), dict(model_type="pixtral", head_dim=8), IMAGE_ID),
    "LlavaNext": (dict(model_type="mistral", head_dim=8, sliding_window=4), CLIP, IMAGE_INDEX),
    "LlavaNextVideo": (dict(model_type="llama"), CLIP, VIDEO_INDEX),
    "LlavaOnevision": (dict(model_type="qwen2"), SIGLIP, VIDEO_INDEX),
    "SmolVLM": (dict(model_type="llama"), {}, IMAGE_ID),
    "VideoLlava": (dict(model_type="llama"), CLIP, VIDEO_INDEX),
    "VipLlava": (dict(model_type="llama"), CLIP, dict(IMAGE_INDEX, vision_feature_layers=[-1])),
}
# Types of text decoders that have no class with a head of their own.
WITHOUT_A_HEAD = ("Qwen2VL", "Qwen2_5_VL", "Qwen3VL")


def multimodal_model(name: str):
    text, vision, others = MODELS[name]
    kind = name.split()[0]
    images = {} if vision is None else {"vision_config": {**VISION, **vision}}
    config = getattr(transformers, f"{kind}Config")(text_config={**SHAPE, **text}, **images, **others)
    torch.manual_seed(0)
    head = "ForCausalLM" if kind == "Fuyu" else "ForConditionalGeneration"
    model = getattr(transformers, f"{kind}{head}")(config).eval()
    for parameter in model.parameters():  # weights that keep the size of their input
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model


@torch.no_grad()
def logits(model, batch) -> torch.Tensor:
    return model(**batch, use_cache=False).logits


@pytest.mark.parametrize("name", MODELS)
def test_importance_is_that_of_the_text_decoder(name):
    model, batch = multimodal_model(name), tiny_batch()
    text_config = model.config.get_text_config()
    measured, expected = pml.importance(model, **batch), pml.importance(model.get_decoder(), **batch)
    assert set(measured) == set(pml.SITES) and all(torch.equal(measured[site], expected[site]) for site in measured)
    for site, values in measured.items():
        assert (values.amax(-1)[:, [has_site(text_config, site, layer) for layer in range(values.shape[1])]] > 0).all()
    assert verify(Decoder(model)).departures == ()


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", WITHOUT_A_HEAD)
def test_importance_is_brute_force(name, padding):
    """Of other text decoders, tests/models/test_further_families.py compares it."""
    decoder, batch = multimodal_model(name).get_decoder().double(), tiny_batch(padding=padding)
    truth = brute_force(decoder, **batch)
    measured = importance_in_float64(decoder, **batch)
    assert set(measured) == set(truth) == set(pml.SITES)
    for site in truth:
        assert largest_error(measured[site], truth[site]) < TOLERANCE[torch.float64] and (truth[site] > 0).any(-1).all()


@pytest.mark.parametrize("name", MODELS)
def test_deactivated_neurons_act_as_zeroed_ones(name):
    model, batch = multimodal_model(name), tiny_batch()
    text_config = model.config.get_text_config()
    neurons = random_neurons(model.get_decoder())
    zeroed = copy.deepcopy(model)
    for site, mask in neurons.sites.items():
        for layer, n in mask.nonzero().tolist():
            zero_neuron(layers_of(zeroed.get_decoder())[layer], site, n, text_config)
    plain = logits(model, batch)
    with pml.deactivate(model, neurons):
        assert difference(logits(model, batch), logits(zeroed, batch)) < 1e-5
        tokens = model.generate(**tiny_batch((5,)), max_new_tokens=4, do_sample=False)
    assert torch.equal(tokens, zeroed.generate(**tiny_batch((5,)), max_new_tokens=4, do_sample=False))
    assert difference(logits(model, batch), plain) == 0 and difference(logits(zeroed, batch), plain) > 1e-2


def test_the_whole_way_from_texts_to_perplexity():
    model, tokenizer = multimodal_model("Gemma3"), tiny_tokenizer()
    corpora = {"fr": texts("fr"), "de": texts("de")}
    options = dict(progress=False, max_length=16)
    detection = pml.detect(model, tokenizer, corpora, select=pml.TopK(0.2, 0.2, share=0.5), **options)
    counts = pml.activations(model, tokenizer, corpora, **options)
    assert set(counts) == set(corpora)
    matrix = pml.ablation_matrix(model, tokenizer, detection.neurons, corpora, **options)
    assert matrix.loc["none", "fr"] == pytest.approx(pml.perplexity(model, tokenizer, corpora["fr"], **options))
    with pml.deactivate(model, detection.neurons["fr"]):
        expected = pml.perplexity(model, tokenizer, corpora["fr"], **options)
    assert matrix.loc["fr", "fr"] == pytest.approx(expected)


def test_a_model_whose_text_decoder_is_not_found_is_refused(monkeypatch):
    model = multimodal_model("Gemma3")
    monkeypatch.setattr(type(model), "get_decoder", lambda self: self.model)
    with pytest.raises(pml.UnsupportedModel, match=r"get_decoder\(\) gives Gemma3Model, .*'gemma3_text'"):
        pml.importance(model, **tiny_batch())


@pytest.mark.parametrize("name", ["Emu3", "Fuyu", "Gemma3", "Llava", "Qwen3VL"])
def test_commands_load_it_whole(tmp_path, name):
    """Also where AutoModelForCausalLM does not know the model, as it does not know Llava's."""
    model = multimodal_model(name)
    save_model(tmp_path, model)
    loaded, _ = load_model(str(tmp_path), torch.device("cpu"))
    assert type(loaded) is type(model) and difference(logits(loaded, tiny_batch()), logits(model, tiny_batch())) == 0
    assert type(load_without_weights(str(tmp_path))) is type(model)


CAUSAL = torch.tensor([[[1, 0], [1, 1]], [[0, 0], [0, 1]]], dtype=torch.bool)[:, None]


@pytest.mark.parametrize(
    "mask, is_right",
    [
        (CAUSAL, True),
        (torch.where(CAUSAL, 0.0, torch.finfo(torch.float32).min), True),
        (CAUSAL | torch.eye(2, dtype=torch.bool), True),  # a query of padding may see anything
        (torch.ones_like(CAUSAL), False),
        (torch.zeros(2, 1, 2, 2), False),
        (CAUSAL[:, 0], False),
    ],
    ids=str,
)
def test_prepared_masks_are_compared_with_causal_ones(mask, is_right):
    assert sees_as_expected(mask) == is_right
