"""Which of a module's inputs or outputs are members of sets of neurons, and what these are set to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pymultiling.models.decoder import Decoder
from pymultiling.neurons.sets import NeuronSet

Parts = dict[str, slice | Tensor]  # which of the inputs or outputs are a site's neurons


def masks_of(sets: Sequence[NeuronSet | None], index: int, parts: Parts, width: int, device: torch.device) -> Tensor:
    """(sets, width) bool, of layer `index`."""
    masks = torch.zeros(len(sets), width, dtype=torch.bool)
    for mask, one in zip(masks, sets):
        for site, part in parts.items():
            if one is not None and site in one.sites:
                mask[part] = one.sites[site][index]
    return masks.to(device)


def values_of(mean: Mapping[str, Tensor], index: int, parts: Parts, width: int, like: Tensor) -> Tensor:
    """(width,) with the dtype and the device of `like`; zeros where a site has no values, and no members."""
    values = torch.zeros(width, dtype=like.dtype, device=like.device)
    for site, part in parts.items():
        if site in mean:
            values[part] = mean[site][index].to(values)
    return values


def check_mean(
    decoder: Decoder, sets: Sequence[NeuronSet | None], scale: float, mean: Mapping[str, Tensor] | None
) -> None:
    """ValueError where the values are of another model, lack a site of the sets, or come with a scale."""
    if mean is None:
        return
    if scale != 0:
        raise ValueError("neurons are scaled or set to their mean, not both: give scale or mean")
    layers, widths = len(decoder.layers), decoder.widths()
    for site in {site for one in sets if one is not None for site, mask in one.sites.items() if mask.any()}:
        if site not in mean:
            raise ValueError(f"mean has no values of site {site}, of which the sets have neurons")
        if tuple(mean[site].shape) != (layers, widths[site]):
            raise ValueError(
                f"mean is of another model: its {site} is {tuple(mean[site].shape)}, this model's {layers} x {widths[site]}"
            )
