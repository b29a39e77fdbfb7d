"""How many neurons each layer has at a site, in models whose layers differ in this.

Tensors are (layers, neurons) for the widest layer. A narrower layer has padding at the end of its row, which is no
neuron: it has no importance, no activations, and no rule or random set selects it. A layer of width 0 lacks the site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from pymultiling.runtime.device_copies import to_device
from pymultiling.runtime.tensor_files import TensorFile, TensorSchema

Widths: TypeAlias = Mapping[str, Sequence[int]]  # {site: neurons of each layer}
PREFIX = "widths."  # of the names of widths in a file, before the site
SCHEMA = TensorSchema((torch.int64,), ("layers",), 0)  # of the widths of a site in a file


def differing(widths: Widths | None, values: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Returns the widths of the sites that have a layer with padding.

    Args:
        widths: {site: neurons of each layer}; None: no layer has padding. Sites that `values` lacks are left out.
        values: {site: (layers, neurons)}.

    Raises:
        ValueError: a site has another number of layers, or a layer is wider than its row.
    """
    kept = {}
    for site, by_layer in (widths or {}).items():
        if site not in values:
            continue
        by_layer, (layers, width) = tuple(by_layer), values[site].shape[-2:]
        if len(by_layer) != layers or not all(0 <= own <= width for own in by_layer):
            raise ValueError(
                f"widths of {site} must be the numbers of neurons of {layers} layers, 0 to {width}, got {by_layer}"
            )
        if any(own < width for own in by_layer):
            kept[site] = by_layer
    return kept


def are_neurons(widths: Sequence[int], width: int) -> Tensor:
    """Returns (layers, width) bool on the CPU, False for padding."""
    return torch.arange(width) < torch.tensor(widths, dtype=torch.int64).unsqueeze(1)


def without_padding(mask: Tensor, widths: Sequence[int] | None) -> Tensor:
    """Returns a mask (.., layers, neurons) bool that is False for padding. widths: None: there is none."""
    return mask if widths is None else mask & to_device(are_neurons(widths, mask.shape[-1]), mask.device)


def by_width(values: Tensor, widths: Sequence[int] | None, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Applies a function to all layers of the same width together.

    Args:
        values: (.., layers, neurons).
        widths: neurons of each layer; None: all layers have as many as `values`.
        function: gets (.., some layers, neurons) and how many of these neurons each of these layers has. It returns a
            tensor with the same last two dimensions.

    Returns:
        The results, in the order of the layers.
    """
    if widths is None:
        return function(values, values.shape[-1])
    results: dict[int, Tensor] = {}
    for width in sorted(set(widths)):
        layers = [layer for layer, own in enumerate(widths) if own == width]
        result = function(torch.stack([values[..., layer, :] for layer in layers], -2), width)
        results |= {layer: result[..., place, :] for place, layer in enumerate(layers)}
    return torch.stack([results[layer] for layer in range(len(widths))], -2)


def width_range(widths: Sequence[int]) -> str:
    """Describes how many neurons a layer has, as "4,096", "0 or 512" or "512, 1,024 or 2,048"."""
    *others, last = (f"{width:,}" for width in sorted(set(widths)))
    return f"{', '.join(others)} or {last}" if others else last


def widths_to_tensors(widths: Widths) -> dict[str, Tensor]:
    """Returns the tensors with which a file holds widths."""
    return {PREFIX + site: torch.tensor(by_layer, dtype=torch.int64) for site, by_layer in widths.items()}


def width_schemas(file: TensorFile, sites: Sequence[str]) -> dict[str, TensorSchema]:
    """Returns the schemas of the widths that a file holds of these sites."""
    return {PREFIX + site: SCHEMA for site in sites if PREFIX + site in file.shapes}


def widths_from_tensors(file: TensorFile, tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Widths:
    """Returns the widths among the tensors of a file.

    Args:
        file: the file.
        tensors: {name: tensor}, all that were read.
        values: {site: (layers, neurons)}, whose padding must be 0.

    Raises:
        CheckpointError: the widths do not fit the values, or padding is not 0.
    """
    widths = {name.removeprefix(PREFIX): tensor.tolist() for name, tensor in tensors.items() if name.startswith(PREFIX)}
    try:
        checked = differing(widths, values)
    except ValueError as error:
        raise file.damaged(str(error)) from None
    for site, by_layer in checked.items():
        if values[site].masked_fill(are_neurons(by_layer, values[site].shape[-1]), 0).any():
            raise file.damaged(f"{site} has values beyond the neurons of a layer")
    return checked
