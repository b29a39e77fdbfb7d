"""Importance compared with brute force: tolerances, the error of a neuron, models in full float64."""

from functools import cache

import pytest
import torch

import pymultiling as pml
from tests.support.brute_force import brute_force, float64_throughout
from tests.support.tiny_models import tiny_batch, tiny_model

# Largest relative error against float64 brute force. One exception: with key biases of +-300 on dimensions that turn fast
# the scores reach 1100, where float32 itself rounds by 7e-5, and softmax turns an absolute error of the scores into a
# relative one of the probabilities. Half of it comes from the model's own projections, before any code of the package.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
ILL_CONDITIONED = {("llama-large-key-bias", torch.float32): 1e-2}
FLOOR = 1e-6  # of a layer's largest importance: below it errors are measured against the floor


def largest_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Largest relative error of any neuron; both are (documents, layers, neurons)."""
    floor = FLOOR * truth.amax(-1, keepdim=True)
    assert found.shape == truth.shape and found.isfinite().all()
    return ((found.double() - truth).abs() / torch.maximum(truth, floor).clamp(min=1e-300)).max().item()


def importance_in_float64(model, **arguments) -> dict[str, torch.Tensor]:
    """pml.importance of a float64 model without transformers' float32 norms and softmax."""
    with float64_throughout(model):
        return pml.importance(model, **arguments)


@cache
def brute_force_importance(name: str, padding: str) -> dict[str, torch.Tensor]:
    return brute_force(tiny_model(name, torch.float64), **tiny_batch(padding=padding))


def set_attention(model, attention: str):
    if attention == "sdpa" and model.config.model_type in ("gemma2", "bloom"):
        pytest.skip("transformers' sdpa has no soft caps, and bloom has no sdpa")
    if attention == "eager" and model.config.model_type == "falcon":
        pytest.skip("the attention of Falcon cannot be set")
    model.set_attn_implementation(attention)
    return model
