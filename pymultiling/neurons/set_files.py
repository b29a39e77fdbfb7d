"""Folders of neuron files: one .safetensors file for each language."""

from __future__ import annotations

from pathlib import Path

from pymultiling.errors import CheckpointError
from pymultiling.neurons.sets import NeuronSet


def files_by_name(folder: str | Path) -> dict[str, Path]:
    """Returns {name: file}, sorted by name, of the .safetensors files in the folder. Subfolders are not searched."""
    return {file.stem: file for file in sorted(Path(folder).glob("*.safetensors"))}


def load_sets(folder: str | Path) -> dict[str, NeuronSet]:
    """Reads all sets of neurons in a folder, such as `neurons` or `specific` of a run of `pymultiling detect`.

    Args:
        folder: holds one .safetensors file for each set, as `NeuronSet.save` writes it. Subfolders are not read.

    Returns:
        {language: set}, sorted by language. The language is the file's name without its ending.

    Raises:
        CheckpointError: the folder has no .safetensors files, or one is damaged or is not a set of neurons.
    """
    sets = {name: NeuronSet.load(file) for name, file in files_by_name(folder).items()}
    if not sets:
        raise CheckpointError(
            f"{folder} has no .safetensors files: give a folder of sets, such as neurons or specific in the output "
            "of detect"
        )
    return sets
