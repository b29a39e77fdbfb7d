"""NeuronSet: a set of neurons of a model, with its file formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, overload

import torch
from torch import Tensor

from pymultiling.neurons.lape_files import read_lape, write_lape
from pymultiling.neurons.sites import SITES, Site, check_sites
from pymultiling.neurons.widths import (
    Widths,
    are_neurons,
    differing,
    width_range,
    width_schemas,
    widths_from_tensors,
    widths_to_tensors,
    without_padding,
)
from pymultiling.runtime.storage import save_tensors
from pymultiling.runtime.tensor_files import TensorSchema, open_tensors

FORMAT = "pymultiling.neurons/1"


class NeuronSet:  # noqa: PLW1641 - sets are compared by their members and are not hashable
    """A set of neurons of a model: for each site, which neurons of which layers are members.

    `a | b`, `a & b`, `a - b` and `a ^ b` are the union, intersection, difference and symmetric difference, again as
    NeuronSets. A site that only one of the two has counts as empty in the other. `len(a)` is the number of members, and
    `a == b` compares members. These five operators raise ValueError if a site has another shape in the other set, since
    the sets are then of different models. Treat a set as immutable.

    Attributes:
        sites: {site: (layers, neurons) bool on the CPU}, True for members. Sites are those of `SITES`, in their order,
            and have the same number of layers.
        widths: {site: neurons of each layer}, for the sites whose layers differ. The masks are as wide as the widest
            layer, and False beyond the neurons of a narrower one. It is empty for models whose layers are all as wide.

    Args:
        sites: {site: (layers, neurons) bool}, True for members, on any device.
        widths: {site: neurons of each layer} of the model. None: all layers are as wide as the masks.

    Raises:
        ValueError: there is no site, a site is unknown, a mask is not bool (layers, neurons), the numbers of layers
            differ, or a member is beyond the neurons of its layer.
    """

    sites: dict[str, Tensor]
    widths: dict[str, tuple[int, ...]]

    def __init__(self, sites: Mapping[str, Tensor], widths: Widths | None = None):
        check_sites(sites)
        for site, mask in sites.items():
            if mask.ndim != 2 or mask.dtype != torch.bool:
                raise ValueError(f"site {site} must be bool (layers, neurons), got {mask.dtype} {tuple(mask.shape)}")
        if len({mask.shape[0] for mask in sites.values()}) != 1:
            layers = {site: mask.shape[0] for site, mask in sites.items()}
            raise ValueError(f"the sites have different numbers of layers: {layers}; give masks of one model")
        self.sites = {site: sites[site].cpu() for site in SITES if site in sites}
        self.widths = differing(widths, self.sites)
        for site, by_layer in self.widths.items():
            beyond = (self.sites[site] & ~are_neurons(by_layer, self.sites[site].shape[1])).nonzero().tolist()
            if beyond:
                layer, index = beyond[0]
                raise ValueError(
                    f"neuron {index} of {site} in layer {layer} does not exist: the layer has {by_layer[layer]} neurons"
                )

    def __len__(self) -> int:
        return sum(int(mask.sum()) for mask in self.sites.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NeuronSet) and len(self ^ other) == 0

    def __or__(self, other: NeuronSet) -> NeuronSet:
        return self._combine(other, torch.logical_or)

    def __and__(self, other: NeuronSet) -> NeuronSet:
        return self._combine(other, torch.logical_and)

    def __sub__(self, other: NeuronSet) -> NeuronSet:
        return self._combine(other, lambda a, b: a & ~b)

    def __xor__(self, other: NeuronSet) -> NeuronSet:
        return self._combine(other, torch.logical_xor)

    def __repr__(self) -> str:
        counts = ", ".join(f"{site} {count}" for site, count in self.count("site").items())
        return f"NeuronSet({len(self)} neurons: {counts})"

    def layer_widths(self, site: str) -> tuple[int, ...]:
        """Returns how many neurons each layer has at a site.

        Args:
            site: a site of the set.

        Returns:
            One number for each layer.
        """
        layers, width = self.sites[site].shape
        return self.widths.get(site, (width,) * layers)

    @overload
    def count(self, by: Literal["site"] = "site") -> dict[str, int]: ...

    @overload
    def count(self, by: Literal["layer"]) -> dict[str, list[int]]: ...

    def count(self, by: Literal["site", "layer"] = "site") -> dict[str, int] | dict[str, list[int]]:
        """Counts the members.

        Args:
            by: "site" for one count a site, "layer" for one count a site and layer.

        Returns:
            {site: count} for "site", {site: [count of layer 0, count of layer 1, ...]} for "layer".

        Raises:
            ValueError: `by` is something else.
        """
        if by == "site":
            return {site: int(mask.sum()) for site, mask in self.sites.items()}
        if by == "layer":
            return {site: mask.sum(1).tolist() for site, mask in self.sites.items()}
        raise ValueError(f'by must be "site" or "layer", got {by!r}')

    def only(self, *sites: Site) -> NeuronSet:
        """Returns the members at the given sites.

        Args:
            sites: the sites whose members stay. All other sites lose their members.

        Returns:
            A set whose masks have the same sites and shapes.

        Raises:
            ValueError: a site is unknown, or none is given.
        """
        checked = check_sites(sites)
        return NeuronSet({site: mask & (site in checked) for site, mask in self.sites.items()}, self.widths)

    def layers(self, start: int, stop: int) -> NeuronSet:
        """Returns the members in layers start, start + 1, ..., stop - 1.

        Args:
            start: the first layer whose members stay.
            stop: the layer after the last one whose members stay. All other layers lose their members.

        Returns:
            A set whose masks have the same sites and shapes.
        """
        depth = next(iter(self.sites.values())).shape[0]
        inside = torch.zeros(depth, 1, dtype=torch.bool)
        inside[start:stop] = True
        return NeuronSet({site: mask & inside for site, mask in self.sites.items()}, self.widths)

    def by_expert(self, experts: int, shared: int = 0, size: int | None = None) -> Tensor:
        """Splits the FFN members of a mixture-of-experts model by expert.

        Neuron n of a layer is neuron n % width of expert n // width. `NeuronSet({"ffn": result.flatten(1)})` is the way
        back where there is no shared expert and no dense layer.

        Args:
            experts: how many experts a layer has, without the shared one.
            shared: how many neurons the shared expert has. They are the last ones of a layer, and are left out.
            size: how many neurons an expert has. It is needed where layers differ in width. Layers with another number
                of neurons than experts * size + shared are dense, and have no members in the result. None: all layers
                have experts.

        Returns:
            (layers, experts, width) bool, True for members; width is the number of neurons of an expert.

        Raises:
            ValueError: the set has no site "ffn", or its neurons cannot be split among so many experts.
        """
        mask = self.sites.get("ffn")
        widths = () if mask is None else self.layer_widths("ffn")
        routed = max(widths, default=0) - shared if size is None else experts * size
        is_mixture = [width == routed + shared for width in widths]
        is_split = experts >= 1 and shared >= 0 and routed >= 1 and routed % experts == 0
        if mask is None or not is_split or not (any(is_mixture) if size is not None else all(is_mixture)):
            width = "no ffn neurons" if mask is None else f"{width_range(widths)} ffn neurons a layer"
            beside = f" and a shared one of {shared} neurons" if shared else ""
            raise ValueError(
                f"the set has {width}, which cannot be split among {experts} experts{beside}; "
                "give FFN neurons, how many experts a layer has, how many neurons their shared expert has, and, where "
                "some layers are dense, how many neurons an expert has (size)"
            )
        return (mask[:, :routed] & torch.tensor(is_mixture).unsqueeze(1)).reshape(len(mask), experts, -1)

    def random_like(self, seed: int, anywhere: bool = False, widths: Widths | None = None) -> NeuronSet:
        """Draws a random set of the same size, uniformly and without replacement from all neurons.

        Args:
            seed: seed of the random generator. The same seed gives the same set.
            anywhere: True: the number of members at every site stays. False: the number at every site and layer stays.
            widths: {site: neurons of each layer} of the model, for a set that was made without them. None: those of the
                set.

        Returns:
            A set whose masks have the same sites and shapes.
        """
        generator = torch.Generator().manual_seed(seed)
        all_widths = self.widths if widths is None else differing(widths, self.sites)
        drawn = {}
        for site, mask in self.sites.items():
            drawn[site] = torch.zeros_like(mask)
            is_neuron = without_padding(torch.ones_like(mask), all_widths.get(site))
            shape = (1, -1) if anywhere else mask.shape
            for row, neurons, count in zip(
                drawn[site].view(shape), is_neuron.view(shape), mask.reshape(shape).sum(1).tolist()
            ):
                places = neurons.nonzero().flatten()
                row[places[torch.randperm(len(places), generator=generator)[:count]]] = True
        return NeuronSet(drawn, all_widths)

    def check_fits(self, widths: Mapping[str, int], layers: int, name: str = "the set") -> None:
        """Checks that the set belongs to a model with these sizes.

        Args:
            widths: {site: neurons a layer} of the model.
            layers: how many layers the model has.
            name: what the error message calls the set.

        Raises:
            ValueError: the set has another number of layers or of neurons.
        """
        for site, mask in self.sites.items():
            if tuple(mask.shape) != (layers, widths[site]):
                raise ValueError(
                    f"{name} is of another model: its {site} is {mask.shape[0]} layers x {mask.shape[1]} neurons, "
                    f"this model's {layers} x {widths[site]}; detect the neurons of this model, or load the other model"
                )

    def save(self, path: str | Path, **metadata: str) -> None:
        """Writes the set to a safetensors file, with one uint8 tensor (layers, neurons) for each site.

        The widths of a site whose layers differ are another tensor, (layers,) int64.

        Args:
            path: the file, which is replaced if it exists.
            metadata: strings to store in the file, such as language="fr".

        Raises:
            OSError: the file cannot be written. An existing file stays as it was.
        """
        tensors = {site: mask.to(torch.uint8).contiguous() for site, mask in self.sites.items()}
        save_tensors(path, tensors | widths_to_tensors(self.widths), FORMAT, metadata)

    @classmethod
    def load(cls, path: str | Path) -> NeuronSet:
        """Reads a set that `save` wrote.

        Args:
            path: the safetensors file.

        Returns:
            The set.

        Raises:
            CheckpointError: there is no such file, or it is damaged or is not a set of neurons.
        """
        with open_tensors(path, FORMAT, "a set of neurons") as file:
            if not file.shapes:
                raise file.damaged("it has no site")
            sites: list[str] = [site for site in SITES if site in file.shapes]
            tensors = file.read({site: mask_schema(site) for site in sites} | width_schemas(file, sites))
            masks = {site: tensors[site].bool() for site in sites}
            return cls(masks, widths_from_tensors(file, tensors, masks))

    @classmethod
    def from_lape(cls, path: str | Path, width: int) -> list[NeuronSet]:
        """Reads sets of FFN neurons in the format of LAPE's published code.

        The format is a torch file with list[language][layer] of LongTensors, the indices of the neurons.
        Source: the published code of arXiv 2402.16438.

        Args:
            path: the file. It is read with weights_only=True.
            width: the model's FFN width, which the file does not hold.

        Returns:
            One set for each language, in the order of the file.

        Raises:
            CheckpointError: there is no such file, or it is damaged, has another layout, or holds indices that a model
                of this width does not have.
            ValueError: `width` is below 1.
        """
        return [cls({"ffn": mask}) for mask in read_lape(path, width)]

    @staticmethod
    def to_lape(sets: Sequence[NeuronSet], path: str | Path) -> None:
        """Writes the FFN neurons of several sets in the format that `from_lape` reads.

        Args:
            sets: one set for each language. Only their site "ffn" is written.
            path: the file, which is replaced if it exists.

        Raises:
            KeyError: a set has no site "ffn".
            OSError: the file cannot be written. An existing file stays as it was.
        """
        write_lape([neurons.sites["ffn"] for neurons in sets], path)

    def _combine(self, other: NeuronSet, operation: Callable[[Tensor, Tensor], Tensor]) -> NeuronSet:
        sites: dict[str, Tensor] = {}
        for site in SITES:
            a, b = self.sites.get(site), other.sites.get(site)
            if a is None:
                if b is None:
                    continue
                a = torch.zeros_like(b)
            if b is None:
                b = torch.zeros_like(a)
            if a.shape != b.shape:
                raise ValueError(
                    f"the sets are of different models: {site} is {tuple(a.shape)} and {tuple(b.shape)}; "
                    "give sets that were detected in the same model"
                )
            if self.widths.get(site, other.widths.get(site)) != other.widths.get(site, self.widths.get(site)):
                raise ValueError(
                    f"the sets are of different models: the layers have {self.widths[site]} and {other.widths[site]} "
                    f"neurons of {site}; give sets that were detected in the same model"
                )
            sites[site] = operation(a, b)
        return NeuronSet(sites, self.widths | other.widths)


def mask_schema(site: str) -> TensorSchema:
    """Returns what the mask of a site is in a file: uint8 (layers, neurons), 1 for members and 0 for others."""
    return TensorSchema((torch.uint8,), ("layers", f"neurons of {site}"), 0, 1)
