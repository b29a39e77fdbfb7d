"""Turns sets of neurons into masks and values for the inputs or outputs of one module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from pymultiling.models.decoder import Decoder
from pymultiling.neurons.sets import NeuronSet
from pymultiling.runtime.device_copies import to_device

# {site: index of the site's neurons among the inputs or outputs of a module}
SiteIndices: TypeAlias = dict[str, slice | Tensor]
SiteMembers: TypeAlias = dict[str, slice]  # {site: which neurons of the layer's site these are}


class SetMasks:
    """Masks of sets, and the means that their neurons are set to, for the inputs or outputs of modules.

    Those of all layers are made on the CPU and copied to a device together, so that the host does not wait for the
    device in every layer.
    """

    def __init__(self, sets: Sequence[NeuronSet | None], layers: int, mean: Mapping[str, Tensor] | None):
        """Stores the sets.

        Args:
            sets: the sets; None: no neurons.
            layers: number of layers of the model.
            mean: as in `deactivate`.
        """
        self._sets, self._layers = sets, layers
        self._mean = None if mean is None else {site: values.cpu() for site, values in mean.items()}
        self._masks: dict[tuple[object, ...], Tensor] = {}
        self._used_layers: dict[tuple[object, ...], list[bool]] = {}
        self._copies: dict[tuple[object, ...], tuple[Tensor, Tensor | None]] = {}

    def of_module(
        self,
        layer: int,
        indices: SiteIndices,
        width: int,
        device: torch.device,
        dtype: torch.dtype,
        members: SiteMembers,
    ) -> tuple[Tensor, Tensor | None] | None:
        """Returns the masks and means of a module's inputs or outputs, or None if no set has neurons there.

        Args:
            layer: number of the module's layer.
            indices: the indices of each site among the inputs or outputs. Modules of the same sites have the same.
            width: number of the inputs or outputs.
            device: of the result.
            dtype: of the means.
            members: which neurons of each site are the module's.

        Returns:
            (sets, width) bool, which inputs or outputs are in each set; and (width,), their means, or None if the sets
            have none. A site that `mean` lacks has zeros; `check_mean` makes sure that no set has neurons there.
        """
        place = width, *((site, own.start, own.stop) for site, own in members.items())
        if place not in self._masks:
            self._masks[place] = self._stack_masks(indices, width, members)
            self._used_layers[place] = self._masks[place].flatten(1).any(1).tolist()
        if not self._used_layers[place][layer]:
            return None
        key = *place, device, dtype
        if key not in self._copies:
            means = self._stack_means(indices, width, members, dtype)
            self._copies[key] = (
                to_device(self._masks[place], device),
                None if means is None else to_device(means, device),
            )
        masks, values = self._copies[key]
        return masks[layer], None if values is None else values[layer]

    def _stack_masks(self, indices: SiteIndices, width: int, members: SiteMembers) -> Tensor:
        """Returns (layers, sets, width) bool on the CPU."""
        masks = torch.zeros(self._layers, len(self._sets), width, dtype=torch.bool)
        for number, neurons in enumerate(self._sets):
            for site, index in indices.items():
                if neurons is not None and site in neurons.sites:
                    masks[:, number, index] = neurons.sites[site][:, members[site]]
        return masks

    def _stack_means(self, indices: SiteIndices, width: int, members: SiteMembers, dtype: torch.dtype) -> Tensor | None:
        """Returns (layers, width) on the CPU."""
        if self._mean is None:
            return None
        means = torch.zeros(self._layers, width, dtype=dtype)
        for site, index in indices.items():
            if site in self._mean:
                means[:, index] = self._mean[site][:, members[site]].to(dtype)
        return means


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
