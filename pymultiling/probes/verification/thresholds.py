"""Attention beyond the lengths at which it changes: a copy of one layer of each kind runs in documents that are longer.

A model changes its attention where a document is longer than its window, or than the context that it was first trained
with. Both lengths are in the configuration. The copies share the model's parameters.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from pymultiling.models.decoder import Decoder

# Fields of configurations, and of their rotations, that hold such a length.
FIELDS = (
    "sliding_window",
    "window_size",
    "attention_chunk_size",
    "original_max_position_embeddings",
    "floor_scale",
)
# Parts of the names under which modules keep such lengths.
ATTRIBUTE_PARTS = ("window", "chunk", "original_max", "max_seq_len", "floor_scale")
LONGEST = 640  # documents are not longer; a threshold above is cut down in the copy's configuration
MARGIN = 16  # tokens beyond a threshold


def lengths_beyond(decoder: Decoder, covered: int) -> tuple[int | None, bool]:
    """Returns how long documents must be for thresholds that are above `covered` tokens.

    Returns:
        A length beyond all thresholds that are short enough to run, or None if there are none of these; and whether
        there are longer ones, which have to be cut down.
    """
    values = [value for _, _, value in _thresholds(decoder.config) if value > covered]
    short = [value for value in values if value + MARGIN <= LONGEST]
    return max(short) + MARGIN if short else None, len(short) < len(values)


def one_layer_of_each_kind(decoder: Decoder, cut_to: int | None) -> tuple[Decoder, dict[nn.Module, str]]:
    """Makes a model of one layer of each kind, which shares the parameters and has its own buffers and configuration.

    Args:
        decoder: the model.
        cut_to: thresholds above LONGEST become this length; None: they stay as they are.

    Returns:
        The copy, and the names that the modules of its layers have in the model.

    Raises:
        ValueError: the model is inside a block in which it cannot be copied.
    """
    base, config = decoder.base_model, decoder.config
    new_config = copy.deepcopy(config)
    numbers = _layers_of_each_kind(decoder)
    new_config.num_hidden_layers = len(numbers)
    if getattr(config, "layer_types", None):
        new_config.layer_types = [config.layer_types[number] for number in numbers]
    # What is in the memo is not copied: parameters are shared.
    memo: dict[int, Any] = {id(parameter): parameter for parameter in base.parameters()}
    memo[id(config)] = memo[id(base.config)] = new_config
    layers = decoder.layer_modules()
    copies = [copy.deepcopy(layers[number], memo) for number in numbers]
    memo[id(layers)] = nn.ModuleList(copies)
    trial: nn.Module = copy.deepcopy(base, memo)
    original_names = {module: name for name, module in decoder.model.named_modules()}
    names = {
        module: original_names[original]
        for number, layer in zip(numbers, copies)
        for original, module in zip(layers[number].modules(), layer.modules())
    }
    if cut_to is not None:
        _cut(trial, new_config, cut_to)
    return Decoder(trial), names


def _thresholds(config: Any) -> list[tuple[Any, str, int]]:
    """Returns (holder, field, value) of the lengths in a configuration; the holder is an object or a dictionary."""
    found = [(config, name, getattr(config, name, None)) for name in FIELDS]
    rotations = getattr(config, "rope_parameters", None) or {}
    for rotation in (rotations, *(value for value in rotations.values() if isinstance(value, dict))):
        found += [(rotation, name, rotation.get(name)) for name in FIELDS]
    return [(holder, name, value) for holder, name, value in found if isinstance(value, int) and value > 0]


def _layers_of_each_kind(decoder: Decoder) -> list[int]:
    """Returns the first layer of each kind of attention, judged by its class and the simple attributes it has.

    All layers are returned if some take the keys of others.
    """
    if decoder.family.shared_keys is not None:
        return list(range(len(decoder.layers)))
    kinds: dict[object, int] = {}
    types = getattr(decoder.config, "layer_types", None)
    for number, layer in decoder.attention_layers.items():
        attributes = tuple(layer.core.__dict__.items())
        simple = tuple(
            (name, value)
            for name, value in attributes
            if isinstance(value, (bool, int, float, str)) and name not in ("layer_idx", "training")
        )
        kind = (type(layer.core), layer.rotates, types[number] if types else None, simple)
        kinds.setdefault(kind, number)
    return list(kinds.values())


def _cut(model: nn.Module, config: Any, length: int) -> None:
    """Cuts thresholds above LONGEST down, in the configuration and in the modules that have read it."""
    long = {value for _, _, value in _thresholds(config) if value + MARGIN > LONGEST}
    for holder, name, value in _thresholds(config):
        if value in long:
            if isinstance(holder, dict):
                holder[name] = length
            else:
                setattr(holder, name, length)
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, int) and value in long and any(part in name for part in ATTRIBUTE_PARTS):
                setattr(module, name, length)
