"""Turns sets of neurons into masks and values for the inputs or outputs of one module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from pymultiling.models.decoder import Decoder
from pymultiling.neurons.sets import NeuronSet

# {site: index of the site's neurons among the inputs or outputs of a module}
SiteIndices: TypeAlias = dict[str, slice | Tensor]


def make_masks(
    sets: Sequence[NeuronSet | None], layer: int, indices: SiteIndices, width: int, device: torch.device
) -> Tensor:
    """Returns (sets, width) bool: which inputs or outputs of a module in layer number `layer` are in each set.

    A set that is None has no neurons. width: number of the module's inputs or outputs.
    """
    masks = torch.zeros(len(sets), width, dtype=torch.bool)
    for mask, neurons in zip(masks, sets):
        for site, index in indices.items():
            if neurons is not None and site in neurons.sites:
                mask[index] = neurons.sites[site][layer]
    return masks.to(device)


def mean_values(mean: Mapping[str, Tensor], layer: int, indices: SiteIndices, width: int, like: Tensor) -> Tensor:
    """Returns (width,): the means of the inputs or outputs of a module in layer number `layer`.

    They have the dtype and device of `like`. Sites that `mean` lacks get zeros; `check_mean` makes sure that no set has
    neurons there.
    """
    values = torch.zeros(width, dtype=like.dtype, device=like.device)
    for site, index in indices.items():
        if site in mean:
            values[index] = mean[site][layer].to(values)
    return values


def check_mean(
    decoder: Decoder, sets: Sequence[NeuronSet | None], scale: float, mean: Mapping[str, Tensor] | None
) -> None:
    """Checks that the mean activations fit the model and the sets.

    Raises:
        ValueError: `mean` is of another model, lacks a site of the sets, or is given together with a scale.
    """
    if mean is None:
        return
    if scale != 0:
        raise ValueError("neurons are scaled or set to their mean, not both: give scale or mean")
    layers, widths = len(decoder.layers), decoder.widths()
    used_sites = {site for neurons in sets if neurons is not None for site, mask in neurons.sites.items() if mask.any()}
    for site in used_sites:
        if site not in mean:
            raise ValueError(
                f"mean has no values of site {site}, of which the sets have neurons: measure that site too"
            )
        if tuple(mean[site].shape) != (layers, widths[site]):
            raise ValueError(
                f"mean is of another model: its {site} is {tuple(mean[site].shape)}, "
                f"this model's {layers} x {widths[site]}; give the mean activations of this model"
            )
