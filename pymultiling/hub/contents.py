"""What a card says of the safetensors files of a published folder: tables of what they hold."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pymultiling.data.languages import language_codes
from pymultiling.hub.publishing import metadata_of
from pymultiling.neurons.sets import NeuronSet
from pymultiling.results.tables import markdown_table

WHAT = {
    "neurons": "sets of neurons",
    "specific": "those of their neurons that are in no other of these sets",
    "kinds": "the neurons specific to one language, related to some, and general to all",
    "statistics": "sum, smallest value and votes of every neuron's importance",
    "counts": "in how many positions every FFN neuron is active",
}
KINDS = WHAT | {"activations": WHAT["counts"], "tuning": "what training added to the parameters of neurons"}


class Contents:
    """The safetensors files of a folder.

    Attributes:
        folders: {subfolder: {name: file}}, those of WHAT first; "" is the folder itself.
        sets: the subfolders with nothing but sets of neurons.
    """

    def __init__(self, folder: Path, files: Iterable[str]):
        found: dict[str, dict[str, Path]] = {}
        for file in map(PurePosixPath, files):
            if file.suffix == ".safetensors":
                found.setdefault("/".join(file.parts[:-1]), {})[file.stem] = folder / file
        self.folders = {one: found[one] for one in dict.fromkeys([*WHAT, *found]) if one in found}
        self._root = folder
        self._metadata = {file: metadata_of(file) for named in self.folders.values() for file in named.values()}
        self.sets = [
            subfolder
            for subfolder, named in self.folders.items()
            if all(self._kind(file) == "neurons" for file in named.values())
        ]

    def first(self, kind: str) -> str | None:
        """The first file of a kind, "statistics" for the format pymultiling.statistics/1."""
        of_kind = (file for file in self._metadata if self._kind(file) == kind)
        return next((file.relative_to(self._root).as_posix() for file in of_kind), None)

    def _kind(self, file: Path) -> str:
        return self._metadata[file]["format"].partition("/")[0].removeprefix("pymultiling.")

    def tables(self) -> list[str]:
        """For the subfolders whose files have the same names: what they are, and a row a name."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for subfolder, named in self.folders.items():
            groups.setdefault(tuple(named), []).append(subfolder)
        return [part for names, subfolders in groups.items() for part in self._group(names, subfolders)]

    def _group(self, names: tuple[str, ...], subfolders: list[str]) -> list[str]:
        parts = ["\n".join(self._what(one) for one in subfolders)]
        with_sets = [one for one in subfolders if one in self.sets]
        sets = [[NeuronSet.load(self.folders[one][name]) for one in with_sets] for name in names]
        sites = list(dict.fromkeys(site for found in sets for one in found for site in one.sites))
        facts = {key: [self._fact(name, subfolders, key) for name in names] for key in ("documents", "tokens")}
        languages = all(map(language_codes, ([name] for name in names)))
        columns = {"language" if languages else "name": list(names)}
        columns |= {key: found for key, found in facts.items() if all(found)}
        for site in sites:
            columns[site] = [" / ".join(f"{one.count().get(site, 0):,}" for one in found) for found in sets]
        if len(sites) > 1:
            columns["all sites"] = [" / ".join(f"{len(one):,}" for one in found) for found in sets]
        if with_sets:
            parts.append(_neurons(with_sets, sets[0][0]))
        if len(columns) > 1:
            parts.append(markdown_table(list(columns), [list(row) for row in zip(*columns.values())]))
        return parts

    def _what(self, subfolder: str) -> str:
        kind = self._kind(next(iter(self.folders[subfolder].values())))
        return (
            f"- `{f'{subfolder}/' if subfolder else '*.safetensors'}`: {KINDS.get(subfolder) or KINDS.get(kind, kind)}"
        )

    def _fact(self, name: str, subfolders: list[str], key: str) -> str | None:
        """A count in the metadata of the files of this name."""
        found = (self._metadata[self.folders[one][name]].get(key) for one in subfolders)
        return next((f"{int(value):,}" for value in found if value), None)


def _neurons(subfolders: list[str], example: NeuronSet) -> str:
    depth = len(next(iter(example.sites.values())))
    widths = ", ".join(f"{mask.shape[1]:,} ({site})" for site, mask in example.sites.items())
    where = f" in {' / '.join(f'`{one}/`' for one in subfolders)}" if any(subfolders) else ""
    return (
        f"How many neurons{where}, by site: the feed-forward network (ffn), the projections of attention (q, k, v, o). "
        f"Each of the model's {depth} layers has {widths}."
    )
