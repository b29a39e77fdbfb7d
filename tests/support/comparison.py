"""Compares importance with brute force: tolerances, relative errors, and models that compute in float64 throughout."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

import pymultiling as pml
from tests.support.brute_force import brute_force, float64_throughout
from tests.support.tiny_models import tiny_batch, tiny_model

# Largest relative error against float64 brute force. There is one exception: with key biases of +-300 on dimensions
# that rotate fast, attention scores reach 1100. There float32 rounds by 6e-5, and softmax turns an absolute error of
# the attention scores into a relative error of the probabilities. Half of this error comes from the model's own
# projections.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
ILL_CONDITIONED = {("llama-large-key-bias", torch.float32): 1e-2}
FLOOR = 1e-6  # times a layer's largest importance: smaller values count as that large when errors are relative


def largest_error(actual: torch.Tensor, truth: torch.Tensor) -> float:
    """Returns the largest relative error of any neuron; both tensors are (documents, layers, neurons)."""
    floor = FLOOR * truth.amax(-1, keepdim=True)
    assert actual.shape == truth.shape and actual.isfinite().all()
    return ((actual.double() - truth).abs() / torch.maximum(truth, floor).clamp(min=1e-300)).max().item()


def importance_in_float64(model: nn.Module, **arguments: object) -> dict[str, torch.Tensor]:
    """Returns pml.importance of a float64 model whose norms and softmax are computed in float64 too."""
    with float64_throughout(model):
        return pml.importance(model, **arguments)


@cache
def brute_force_importance(name: str, padding: str) -> dict[str, torch.Tensor]:
    """Returns the importance of a tiny model's neurons for `tiny_batch`, {site: (documents, layers, neurons)}."""
    return brute_force(tiny_model(name, torch.float64), **tiny_batch(padding=padding))


def set_attention(model: PreTrainedModel, attention: str) -> PreTrainedModel:
    """Sets the implementation of the attention and returns the model. Skips the test if the model has no such one."""
    if attention == "sdpa" and model.config.model_type in ("gemma2", "vaultgemma", "bloom"):
        pytest.skip("transformers' sdpa does not support soft caps, and bloom has no sdpa")
    if attention == "sdpa" and not model._supports_sdpa:
        pytest.skip("transformers' sdpa has no attention sinks")
    if attention == "eager" and model.config.model_type == "falcon":
        pytest.skip("the attention implementation of Falcon cannot be set")
    model.set_attn_implementation(attention)
    return model
