"""Modules that get a batch in pieces, in documents that are longer than those of the verification."""

import types

import pytest
import torch

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.activation_sums import ActivationSumProbe
from tests.support.tiny_models import random_neurons, tiny_model

LENGTH, PIECE = 100, 70  # the verification has at most 64 tokens
SENTENCE = (
    r"site {} of layer 0 was seen with (70|30|140|60) of 200 tokens: the model runs this layer's modules in pieces"
)


def long_batch() -> dict[str, torch.Tensor]:
    tokens = torch.randint(1, 60, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[1, :5] = 0
    return dict(input_ids=tokens, attention_mask=mask)


def run_in_pieces(module, dim: int = 1) -> None:
    """Gives a module a forward that runs pieces of at most PIECE tokens one after the other."""

    def forward(self, x, *args, **kwargs):
        pieces = [piece.contiguous() for piece in x.split(PIECE, dim)]
        return torch.cat([type(self).forward(self, piece, *args, **kwargs) for piece in pieces], dim)

    module.forward = types.MethodType(forward, module)


def project_in_pieces(attention, name: str) -> None:
    """Gives an attention a forward that calls one of its projections in pieces."""
    projection = getattr(attention, name)

    class Pieces(torch.nn.Module):
        def forward(self, x):
            return torch.cat([projection(piece) for piece in x.split(PIECE, 1)], 1)

    def forward(self, *args, **kwargs):
        self._modules[name] = Pieces()
        try:
            return type(self).forward(self, *args, **kwargs)
        finally:
            self._modules[name] = projection

    attention.forward = types.MethodType(forward, attention)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2", "mixtral"])
def test_an_ffn_in_pieces_is_refused_and_can_be_deactivated(name):
    model = tiny_model(name, max_position_embeddings=128)
    neurons = random_neurons(model, sites=("ffn",))
    with torch.no_grad(), pml.deactivate(model, neurons):
        expected = model(**long_batch()).logits
    for layer in Decoder(model).layers:
        run_in_pieces(layer.ffn)
    batch = long_batch()
    for measure in (
        lambda: pml.importance(model, **batch, fused=False),
        lambda: ActivationProbe(model).measure(**batch, counted=batch["attention_mask"].bool()),
        lambda: ActivationSumProbe(model, "ffn").measure(**batch),
    ):
        with pytest.raises(pml.UnsupportedModel, match=SENTENCE.format("ffn")):
            measure()
    values = pml.importance(model, **batch, sites=tuple("qkvo"))
    assert all(value.isfinite().all() for value in values.values())
    with torch.no_grad(), pml.deactivate(model, neurons):
        logits = model(**batch).logits
    is_token = batch["attention_mask"].bool()
    torch.testing.assert_close(logits[is_token], expected[is_token])


@pytest.mark.parametrize("site", ["q", "k", "v", "o"])
@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_a_projection_that_attention_calls_in_pieces_is_refused(name, site):
    model, batch = tiny_model(name, max_position_embeddings=128), long_batch()
    expected = pml.importance(model, **batch)
    for layer in model.base_model.layers:
        project_in_pieces(layer.self_attn, f"{site}_proj")
    if site == "v":  # whose importance is measured where values have been summed up
        torch.testing.assert_close(pml.importance(model, **batch), expected)
    else:
        with pytest.raises(pml.UnsupportedModel, match=SENTENCE.format("[vo]" if site == "o" else site)):
            pml.importance(model, **batch, sites=site)
    with pytest.raises(pml.UnsupportedModel, match=SENTENCE.format(site)):
        ActivationSumProbe(model, site).measure(**batch)


def test_pieces_that_mix_the_rows_are_refused_with_a_set_for_each_row_alone():
    model, batch = tiny_model("llama", max_position_embeddings=128), long_batch()
    neurons = random_neurons(model, sites=("ffn",))
    with torch.no_grad(), pml.deactivate(model, neurons):
        expected = model(**batch).logits

    def forward(self, x):
        pieces = x.flatten(0, 1).split(100)
        return torch.cat([type(self).forward(self, piece) for piece in pieces]).view(x.shape)

    for layer in model.model.layers:
        layer.mlp.forward = types.MethodType(forward, layer.mlp)
    with torch.no_grad(), pml.deactivate(model, neurons, verify=False):
        is_token = batch["attention_mask"].bool()
        torch.testing.assert_close(model(**batch).logits[is_token], expected[is_token])
    with (
        pytest.raises(pml.UnsupportedModel, match="sets of rows cannot be told apart"),
        pml.deactivate(model, [neurons, None], rows=[0, 1], verify=False),
    ):
        model(**batch)
