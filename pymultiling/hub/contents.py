"""Tables of a card that describe the safetensors files of a published folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pymultiling.data.languages import language_codes
from pymultiling.hub.publishing import metadata_of
from pymultiling.neurons.sets import NeuronSet
from pymultiling.neurons.widths import width_range
from pymultiling.results.tables import markdown_table

SUBFOLDERS = {  # {subfolder of a run: its description in a card}
    "neurons": "sets of neurons",
    "specific": "those of their neurons that are in no other of these sets",
    "kinds": "the neurons specific to one language, related to some, and general to all",
    "statistics": "sum, smallest value, votes and ranks of every neuron's importance",
    "counts": "in how many positions every FFN neuron is active",
}
DESCRIPTIONS = SUBFOLDERS | {  # {subfolder or kind of file: its description in a card}
    "activations": SUBFOLDERS["counts"],
    "tuning": "what training added to the parameters of neurons",
}


class Contents:
    """The safetensors files of a folder.

    Attributes:
        folders: {subfolder: {name: path}}, first the subfolders in SUBFOLDERS; "" is the folder itself.
        sets: the subfolders whose files are all sets of neurons.
    """

    def __init__(self, folder: Path, files: Iterable[str]) -> None:
        folders: dict[str, dict[str, Path]] = {}
        for file in map(PurePosixPath, files):
            if file.suffix == ".safetensors":
                folders.setdefault("/".join(file.parts[:-1]), {})[file.stem] = folder / file
        self.folders = {
            subfolder: folders[subfolder]
            for subfolder in dict.fromkeys([*SUBFOLDERS, *folders])
            if subfolder in folders
        }
        self._root = folder
        self._metadata = {path: metadata_of(path) for paths in self.folders.values() for path in paths.values()}
        self.sets = [
            subfolder
            for subfolder, paths in self.folders.items()
            if all(self._kind(path) == "neurons" for path in paths.values())
        ]

    def first(self, kind: str) -> str | None:
        """Returns the name of the first file of a kind, or None. The kind of pymultiling.tuning/1 is "tuning"."""
        paths = (path for path in self._metadata if self._kind(path) == kind)
        return next((path.relative_to(self._root).as_posix() for path in paths), None)

    def _kind(self, path: Path) -> str:
        return self._metadata[path]["format"].partition("/")[0].removeprefix("pymultiling.")

    def tables(self) -> list[str]:
        """Returns a description of every subfolder, and a table for each group of subfolders with equal file names."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for subfolder, paths in self.folders.items():
            groups.setdefault(tuple(paths), []).append(subfolder)
        return [part for names, subfolders in groups.items() for part in self._describe_group(names, subfolders)]

    def _describe_group(self, names: tuple[str, ...], subfolders: list[str]) -> list[str]:
        parts = ["\n".join(self._describe_subfolder(subfolder) for subfolder in subfolders)]
        set_subfolders = [subfolder for subfolder in subfolders if subfolder in self.sets]
        sets = [[NeuronSet.load(self.folders[subfolder][name]) for subfolder in set_subfolders] for name in names]
        sites = list(dict.fromkeys(site for row in sets for neurons in row for site in neurons.sites))
        are_languages = all(language_codes([name]) for name in names)
        columns = {"language" if are_languages else "name": list(names)}
        for key in ("documents", "tokens"):
            counts = [self._metadata_count(name, subfolders, key) for name in names]
            if all(counts):
                columns[key] = counts
        for site in sites:
            columns[site] = [" / ".join(f"{neurons.count().get(site, 0):,}" for neurons in row) for row in sets]
        if len(sites) > 1:
            columns["all sites"] = [" / ".join(f"{len(neurons):,}" for neurons in row) for row in sets]
        if set_subfolders:
            parts.append(_describe_counts(set_subfolders, sets[0][0]))
        if len(columns) > 1:
            parts.append(markdown_table(list(columns), [list(row) for row in zip(*columns.values())]))
        return parts

    def _describe_subfolder(self, subfolder: str) -> str:
        kind = self._kind(next(iter(self.folders[subfolder].values())))
        pattern = f"{subfolder}/" if subfolder else "*.safetensors"
        return f"- `{pattern}`: {DESCRIPTIONS.get(subfolder) or DESCRIPTIONS.get(kind, kind)}"

    def _metadata_count(self, name: str, subfolders: list[str], key: str) -> str:
        """Returns a count in the metadata of the files of this name; "" if none has it."""
        counts = (self._metadata[self.folders[subfolder][name]].get(key) for subfolder in subfolders)
        return next((f"{int(count):,}" for count in counts if count), "")


def _describe_counts(subfolders: list[str], example: NeuronSet) -> str:
    depth = len(next(iter(example.sites.values())))
    widths = ", ".join(f"{width_range(example.layer_widths(site))} ({site})" for site in example.sites)
    where = f" in {' / '.join(f'`{subfolder}/`' for subfolder in subfolders)}" if any(subfolders) else ""
    return (
        f"How many neurons{where}, by site: the feed-forward network (ffn), the projections of attention (q, k, v, o). "
        f"Each of the model's {depth} layers has {widths}."
    )
