"""Padding on the right needs no attention mask, and no mask is read: the hidden states are those of a plain forward."""

import pytest
import torch
from transformers import masking_utils

from pymultiling.models.decoder import Decoder
from pymultiling.models.mask_reads import without_mask_reads
from tests.support.tiny_models import MODELS, hidden_of, tiny_batch, tiny_model


def record_arguments(model) -> list[dict]:
    """Returns a list to which every forward of the base model adds its keyword arguments."""
    calls: list[dict] = []
    model.base_model.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    return calls


@pytest.mark.parametrize("name", MODELS)
def test_right_padding_without_a_mask_gives_the_states_of_a_plain_forward(name):
    """Bit for bit at every token, with windows shorter than the documents, ALiBi and learned positions."""
    model = tiny_model(name)
    batch = tiny_batch((33, 17, 1))
    with torch.no_grad():
        expected = hidden_of(model, batch)
        calls = record_arguments(model)
        states = Decoder(model).forward(**batch)[0]
    assert len(calls) == 1 and "attention_mask" not in calls[0]
    is_token = batch["attention_mask"].bool()
    assert torch.equal(states[is_token], expected[is_token])


@pytest.mark.parametrize("name", MODELS)
def test_left_padding_gives_the_states_of_a_forward_that_reads_the_mask(name):
    model = tiny_model(name)
    batch = tiny_batch((33, 17, 1), "left")
    with torch.no_grad():
        expected, states = hidden_of(model, batch), Decoder(model).forward(**batch)[0]
    is_token = batch["attention_mask"].bool()
    assert torch.equal(states[is_token], expected[is_token])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_long_documents_have_the_states_of_a_plain_forward(attention, dtype):
    """PyTorch's attention works in blocks of up to 512 tokens."""
    model = tiny_model("mistral", dtype, max_position_embeddings=1024, sliding_window=700)
    model.set_attn_implementation(attention)
    batch = tiny_batch((1000, 600, 5))
    with torch.no_grad():
        states, expected = Decoder(model).forward(**batch)[0], hidden_of(model, batch)
    is_token = batch["attention_mask"].bool()
    assert torch.equal(states[is_token], expected[is_token])


@pytest.mark.parametrize("padding, lengths, masked", [("left", (9, 4), True), ("left", (9, 9), False)])
def test_padding_on_the_left_keeps_the_mask(padding, lengths, masked):
    model = tiny_model("llama")
    batch = tiny_batch(lengths, padding)
    calls = record_arguments(model)
    with torch.no_grad():
        states = Decoder(model).forward(**batch)[0]
        expected = hidden_of(model, batch)
    assert ("attention_mask" in calls[0]) == masked
    is_token = batch["attention_mask"].bool()
    assert torch.equal(states[is_token], expected[is_token])


def test_transformers_looks_for_packed_documents_again_afterwards():
    positions = torch.tensor([[0, 1, 2, 0, 1]])
    with without_mask_reads(has_mask=False):
        assert masking_utils.find_packed_sequence_indices(positions) is None
    assert masking_utils.find_packed_sequence_indices(positions).tolist() == [[0, 0, 0, 1, 1]]


def record(monkeypatch) -> None:
    """Makes torch say that a CUDA graph is recorded."""
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
def test_a_recorded_forward_gives_the_attention_the_same_mask(name, monkeypatch):
    """Sees what transformers sees while a CUDA graph is recorded, without a GPU."""
    model, batch = tiny_model(name), tiny_batch((9, 4))
    masks = []
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda _, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
        )
    with torch.no_grad():
        states = Decoder(model).forward(**batch)[0]
        record(monkeypatch)
        assert masking_utils.is_tracing()
        recorded = Decoder(model).forward(**batch)[0]
    layers = len(model.model.layers)
    for mask, recorded_mask in zip(masks[:layers], masks[layers:], strict=True):
        assert (mask is None) == (recorded_mask is None)
        assert mask is None or torch.equal(mask, recorded_mask)
    assert (masks[0] is None) == (name == "llama")
    assert torch.equal(states, recorded)


def test_transformers_reads_masks_again_afterwards():
    with without_mask_reads(has_mask=True):
        assert masking_utils.is_tracing(torch.ones(1, 2))
    assert not masking_utils.is_tracing(torch.ones(1, 2))


def test_transformers_still_notices_a_recording_outside(monkeypatch):
    record(monkeypatch)
    with without_mask_reads(has_mask=False):
        assert not masking_utils.is_tracing()
    assert masking_utils.is_tracing()


def test_a_torch_without_cuda_is_not_asked_whether_it_records(monkeypatch):
    """It fails then. Some versions of transformers ask is_tracing() without a tensor, where there is no mask."""

    def fail() -> bool:
        raise RuntimeError("Tried to instantiate dummy base class _cuda_isCurrentStreamCapturing")

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", fail)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    with without_mask_reads(has_mask=False):
        assert not masking_utils.is_tracing()
