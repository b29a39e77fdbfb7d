"""Lengths at which attention changes: brute force is beyond all of them, and a planted scaling by position is refused.

tests/probes/test_importance.py and tests/models/test_further_families.py compare every family with brute force on the
documents of `tiny_batch`, which are longer than every window, chunk and first context of the models.
"""

import sys
from contextlib import contextmanager
from unittest import mock

import pytest
import torch

import pymultiling as pml
from tests.support.anatomy import attention_of, layers_of
from tests.support.tiny_models import ENCODERS, FURTHER_MODELS, MODELS, PAIRS, tiny_batch, tiny_model

ALL = [*MODELS, *FURTHER_MODELS, *ENCODERS, *PAIRS]
# Parts of the names of configurations' fields that hold a length.
LENGTHS = ("window", "chunk", "original_max", "floor_scale", "local_attention", "block_size", "max_distance")
NO_LENGTHS = ("max_window_layers", "sliding_window_pattern")
OTHER_INPUTS = ("vision_config", "audio_config")
LONGEST = int(tiny_batch()["attention_mask"].sum(1).max())


def lengths_of(values: dict, path: str = "") -> dict[str, int]:
    """Returns {path: value} of the lengths in a configuration's dictionary."""
    found = {}
    for name, value in values.items():
        if name in OTHER_INPUTS:
            continue
        if isinstance(value, dict):
            found |= lengths_of(value, f"{path}{name}.")
        elif type(value) is int and any(part in name for part in LENGTHS) and name not in NO_LENGTHS:
            found[f"{path}{name}"] = value
    return found


@pytest.mark.parametrize("name", ALL)
def test_the_documents_of_brute_force_are_longer_than_every_threshold(name):
    config = tiny_model(name).config
    lengths = lengths_of(config.to_dict())
    if "rope_type': 'longrope" not in str(config.rope_parameters if hasattr(config, "rope_parameters") else ""):
        lengths.pop("original_max_position_embeddings", None)  # Phi3's and PhiMoE's, which only longrope reads
    assert all(length < LONGEST for length in lengths.values()), lengths


def grown(query: torch.Tensor, dimension: int = -2) -> torch.Tensor:
    """Returns queries times a factor that grows every fourth position."""
    factors = 1 + 0.1 * (torch.arange(query.shape[dimension]) // 4)
    return query * factors.view(-1, *[1] * (-1 - dimension)).to(query)


@contextmanager
def queries_that_grow(model):
    """Inside the block, every attention scales its queries by their position, behind what its entry says of them."""
    attention = next(a for layer in layers_of(model) if (a := attention_of(layer, model.config)) is not None)
    source = sys.modules[type(attention).__module__]
    if hasattr(source, "eager_attention_forward"):
        attend = source.eager_attention_forward
        model.set_attn_implementation("eager")
        patch = mock.patch.object(
            source, "eager_attention_forward", lambda module, q, *args, **kw: attend(module, grown(q), *args, **kw)
        )
    elif hasattr(attention, "_attn"):
        attend = type(attention)._attn
        patch = mock.patch.object(
            type(attention), "_attn", lambda self, q, *args, **kw: attend(self, grown(q), *args, **kw)
        )
    else:
        owner, name = {
            "bloom": (torch.Tensor, "baddbmm"),
            "falcon": (torch.nn.functional, "scaled_dot_product_attention"),
            "megatron-bert": (torch, "matmul"),
            "mpt": (torch, "matmul"),
            "rembert": (torch, "matmul"),
            "xglm": (torch, "bmm"),
        }[model.config.model_type]
        multiply = getattr(owner, name)

        def changed(*args, **kwargs):
            if "batch1" in kwargs:
                kwargs["batch1"] = grown(kwargs["batch1"])
            elif name == "scaled_dot_product_attention" or args[0].shape[-1] != args[0].shape[-2]:
                args = (grown(args[0]), *args[1:])  # not the product with the values, whose first factor is square
            return multiply(*args, **kwargs)

        patch = mock.patch.object(owner, name, changed)
    with patch:
        yield


@pytest.mark.parametrize("name", ALL)
def test_queries_that_grow_with_their_position_are_refused_at_first_use(name):
    model = tiny_model(name)
    with (
        queries_that_grow(model),
        pytest.raises(pml.UnsupportedModel, match=r"computes other attention than|does not pass on the q heads"),
    ):
        pml.importance(model, **tiny_batch(), sites=("q", "k"))
