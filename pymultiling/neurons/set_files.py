"""Folders of the library's files, a file a language."""

from __future__ import annotations

from pathlib import Path

from pymultiling.errors import CheckpointError
from pymultiling.neurons.sets import NeuronSet


def files_by_name(folder: str | Path) -> dict[str, Path]:
    """{name: file}, by name, of every .safetensors file in the folder; those of its subfolders are left out."""
    return {file.stem: file for file in sorted(Path(folder).glob("*.safetensors"))}


def load_sets(folder: str | Path) -> dict[str, NeuronSet]:
    """The sets of a folder such as `neurons` or `specific` of a run, {language: set}.

    Raises:
        CheckpointError: there are no .safetensors files in it, or one is damaged or something else.
    """
    found = {name: NeuronSet.load(file) for name, file in files_by_name(folder).items()}
    if not found:
        raise CheckpointError(
            f"{folder} has no .safetensors files: give a folder of sets, such as neurons or specific of what detect wrote"
        )
    return found
