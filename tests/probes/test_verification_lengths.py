"""Departures that begin behind 64 tokens are found on copies of layers, and longer windows alone refuse no model."""

import pytest
import torch

from pymultiling.models.decoder import Decoder
from pymultiling.probes.verification.thresholds import lengths_beyond
from pymultiling.probes.verification.verify import verify
from tests.support import departures
from tests.support.tiny_models import tiny_model

SLIDING = ("mistral", "qwen2-sliding", "gemma2", "gemma3_text", "phi3", "starcoder2", "cohere2", "mixtral")
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=8.0)
SCALED = {
    "yarn": dict(YARN, original_max_position_embeddings=4096),
    "dynamic": dict(rope_type="dynamic", rope_theta=1e4, factor=4.0),
    "longrope": dict(
        rope_type="longrope",
        rope_theta=1e4,
        short_factor=[1.0] * 4,
        long_factor=[3.0] * 4,
        factor=4.0,
        original_max_position_embeddings=4096,
    ),
}


@pytest.mark.parametrize("window", [48, 63, 80, 4096])
@pytest.mark.parametrize("name", SLIDING)
def test_a_long_window_is_checked_and_accepted(name, window):
    model = tiny_model(name, sliding_window=window, max_position_embeddings=8192)
    decoder = Decoder(model)
    length, has_long = {48: (None, False), 63: (79, False), 80: (96, False), 4096: (None, True)}[window]
    # Phi3's configuration always has a first context of 4,096 tokens.
    assert lengths_beyond(decoder, 48) == (length, has_long or name == "phi3")
    result = verify(decoder)
    assert not result.departures and not result.notes


@pytest.mark.parametrize("rotation", SCALED)
def test_a_rotation_that_changes_behind_its_first_context_is_accepted_and_keeps_its_state(rotation):
    model = tiny_model("llama", head_dim=8, max_position_embeddings=32, rope_parameters=dict(SCALED[rotation]))
    rotary = model.model.rotary_emb
    state = {name: value for name, value in vars(rotary).items() if not name.startswith("_")}
    frequencies = rotary.inv_freq.clone()
    result = verify(Decoder(model))
    assert not result.departures and not result.notes
    after = {name: value for name, value in vars(rotary).items() if not name.startswith("_")}
    assert after.keys() == state.keys() and all(after[name] is state[name] for name in state)
    assert torch.equal(rotary.inv_freq, frequencies)


def test_a_mask_that_ignores_a_long_window_is_named(monkeypatch):
    model = tiny_model("qwen2-sliding", sliding_window=4096, max_position_embeddings=8192)
    modeling = __import__(type(model.model).__module__, fromlist=["create_sliding_window_causal_mask"])
    monkeypatch.setattr(modeling, "create_sliding_window_causal_mask", modeling.create_causal_mask)
    (departure, *_) = verify(Decoder(model)).departures
    assert departure.check == "scores" and "layers.1.self_attn computes other attention" in departure.sentence
    assert "in 64 tokens of a copy whose window and first context are cut down to 32" in departure.sentence


@pytest.mark.parametrize("context", [100, 4096])
def test_queries_that_are_scaled_behind_the_first_context_are_named(monkeypatch, context):
    model = tiny_model(
        "llama", max_position_embeddings=8192, rope_parameters=dict(YARN, original_max_position_embeddings=context)
    )
    modeling = __import__(type(model.model).__module__, fromlist=["apply_rotary_pos_emb"])
    rotate = modeling.apply_rotary_pos_emb
    departures.replace_eager_attention(monkeypatch, model, "none")
    current = {}

    def remember(module, args, kwargs):
        current["config"] = module.config

    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(remember, with_kwargs=True)

    def scaled(q, k, cos, sin, **options):
        q, k = rotate(q, k, cos, sin, **options)
        first = current["config"].rope_parameters["original_max_position_embeddings"]
        growth = 1 + 0.1 * (torch.arange(q.shape[2]) // first)
        return q * growth[:, None], k

    monkeypatch.setattr(modeling, "apply_rotary_pos_emb", scaled)
    (departure, *_) = verify(Decoder(model)).departures
    length = "116 tokens" if context == 100 else "64 tokens of a copy"
    assert departure.check == "scores" and length in departure.sentence
    assert "does not pass on the q heads" in departure.sentence


@pytest.mark.parametrize("context", [8, 100, 16384])
@pytest.mark.parametrize("planted", ["no scaling", "steeper", "shifted by one"])
@pytest.mark.parametrize("name", ["ministral3", "mistral4"])
def test_another_scaling_of_queries_by_position_is_named(monkeypatch, name, planted, context):
    """In 64 tokens, in 116, and in a copy whose original context is cut down; transformers' own is accepted."""
    scaled = dict(YARN, llama_4_scaling_beta=0.1, original_max_position_embeddings=context)
    windows = dict(sliding_window=None) if name == "ministral3" else {}
    model = tiny_model(name, **windows, max_position_embeddings=65536, rope_parameters=scaled)
    assert not verify(Decoder(model)).departures
    modeling = __import__(type(model.model).__module__, fromlist=["get_llama_4_attn_scale"])
    original = modeling.get_llama_4_attn_scale

    def other(positions, beta, length):
        changes = {
            "no scaling": (positions, 0.0, length),
            "steeper": (positions, 0.12, length),
            "shifted by one": (positions + 1, beta, length),
        }
        return original(*changes[planted])

    monkeypatch.setattr(modeling, "get_llama_4_attn_scale", other)
    (departure, *_) = verify(Decoder(model)).departures
    assert departure.check == "scores" and "does not pass on the q heads" in departure.sentence
