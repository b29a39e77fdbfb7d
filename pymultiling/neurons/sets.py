"""Sets of neurons of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pymultiling.neurons.sites import SITES, check_sites
from pymultiling.runtime.storage import load_tensors, save_tensors, write_atomically

FORMAT = "pymultiling.neurons/1"


class NeuronSet:
    """A set of neurons: for each site a bool tensor (layers, neurons), True for members. Immutable by convention.

    `a | b`, `a & b`, `a - b` and `a ^ b` are sets again; a site that one of the two lacks is empty there.
    """

    def __init__(self, sites: dict[str, Tensor]):
        check_sites(sites)
        for site, mask in sites.items():
            if mask.ndim != 2 or mask.dtype != torch.bool:
                raise ValueError(f"site {site} must be bool (layers, neurons), got {mask.dtype} {tuple(mask.shape)}")
        if len({mask.shape[0] for mask in sites.values()}) != 1:
            raise ValueError("the sites have different numbers of layers")
        self.sites = {site: sites[site].cpu() for site in SITES if site in sites}

    def __len__(self) -> int:
        return sum(int(mask.sum()) for mask in self.sites.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NeuronSet) and len(self ^ other) == 0

    __hash__ = None

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

    def count(self, by: str = "site") -> dict:
        """Members by "site" ({site: int}) or by "layer" ({site: [int, a layer]})."""
        if by == "site":
            return {site: int(mask.sum()) for site, mask in self.sites.items()}
        if by == "layer":
            return {site: mask.sum(1).tolist() for site, mask in self.sites.items()}
        raise ValueError(f'by must be "site" or "layer", got {by!r}')

    def only(self, *sites: str) -> NeuronSet:
        """The members at these sites."""
        sites = check_sites(sites)
        return NeuronSet({site: mask & (site in sites) for site, mask in self.sites.items()})

    def layers(self, start: int, stop: int) -> NeuronSet:
        """The members in layers start ... stop - 1."""
        depth = next(iter(self.sites.values())).shape[0]
        inside = torch.zeros(depth, 1, dtype=torch.bool)
        inside[start:stop] = True
        return NeuronSet({site: mask & inside for site, mask in self.sites.items()})

    def by_expert(self, experts: int) -> Tensor:
        """(layers, experts, width) bool: the FFN neurons of a model with so many experts a layer, by index in each.

        Neuron n of a layer is index n % width of expert n // width. The way back: NeuronSet({"ffn": found.flatten(1)}).
        """
        mask = self.sites.get("ffn")
        if mask is None or experts < 1 or mask.shape[1] % experts:
            width = "no ffn neurons" if mask is None else f"{mask.shape[1]} ffn neurons a layer"
            raise ValueError(f"the set has {width}, which are not shared among {experts} experts")
        return mask.unflatten(1, (experts, -1))

    def random_like(self, seed: int, anywhere: bool = False) -> NeuronSet:
        """As many neurons at every site and layer, drawn uniformly without replacement from all of them.

        anywhere: as many at every site, in whatever layers.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn = {}
        for site, mask in self.sites.items():
            drawn[site] = torch.zeros_like(mask)
            rows = (1, -1) if anywhere else mask.shape
            for row, count in zip(drawn[site].view(rows), mask.reshape(rows).sum(1).tolist()):
                row[torch.randperm(len(row), generator=generator)[:count]] = True
        return NeuronSet(drawn)

    def check_fits(self, widths: dict[str, int], layers: int, name: str = "the set") -> None:
        """ValueError, naming the set, unless it is of a model with these widths and this many layers."""
        for site, mask in self.sites.items():
            if tuple(mask.shape) != (layers, widths[site]):
                raise ValueError(
                    f"{name} is of another model: its {site} is {mask.shape[0]} layers x {mask.shape[1]} neurons, "
                    f"this model's {layers} x {widths[site]}; detect the neurons of this model, or load theirs"
                )

    def save(self, path: str | Path, **metadata: str) -> None:
        """Writes a safetensors file: a uint8 (layers, neurons) for each site; metadata are strings kept beside it."""
        tensors = {site: mask.to(torch.uint8).contiguous() for site, mask in self.sites.items()}
        save_tensors(path, tensors, FORMAT, metadata)

    @classmethod
    def load(cls, path: str | Path) -> NeuronSet:
        """Reads what `save` wrote; CheckpointError where the file is damaged or something else."""
        tensors, _ = load_tensors(path, FORMAT, "a set of neurons")
        return cls({site: mask.bool() for site, mask in tensors.items()})

    @classmethod
    def from_lape(cls, path: str | Path, width: int) -> list[NeuronSet]:
        """Reads FFN sets in the layout of LAPE's published code: list[language][layer] of LongTensor, a torch file.

        Args:
            path: the file; read with weights_only.
            width: the model's FFN width, which the layout does not hold.

        Returns:
            One set a language, in the file's order.
        """
        sets = []
        for language in torch.load(path, map_location="cpu", weights_only=True):
            mask = torch.zeros(len(language), width, dtype=torch.bool)
            for row, indices in zip(mask, language):
                row[indices] = True
            sets.append(cls({"ffn": mask}))
        return sets

    @staticmethod
    def to_lape(sets: Sequence[NeuronSet], path: str | Path) -> None:
        """Writes the FFN neurons of several sets in the layout that `from_lape` reads."""
        layout = [[row.nonzero().squeeze(1) for row in one.sites["ffn"]] for one in sets]
        with write_atomically(path) as partial, open(partial, "wb") as file:  # a path's name would be in the file
            torch.save(layout, file)

    def _combine(self, other: NeuronSet, operation: Callable[[Tensor, Tensor], Tensor]) -> NeuronSet:
        sites = {}
        for site in SITES:
            a, b = self.sites.get(site), other.sites.get(site)
            if a is None and b is None:
                continue
            a = torch.zeros_like(b) if a is None else a
            b = torch.zeros_like(a) if b is None else b
            if a.shape != b.shape:
                raise ValueError(f"the sets are of different models: {site} is {tuple(a.shape)} and {tuple(b.shape)}")
            sites[site] = operation(a, b)
        return NeuronSet(sites)
