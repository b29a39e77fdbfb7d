"""The Python code in a card, which pulls the folder and loads its files."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from pymultiling.hub.contents import Contents


def snippet(contents: Contents, files: list[str], repo: str, model: str | None, loader: str) -> str:
    """Returns the Python code for a card; it runs as it is.

    Args:
        contents: the safetensors files.
        files: the names of all files.
        repo: the arguments of `pull_from_hub`, as Python code.
        model: the arguments of `from_pretrained`, as Python code; None: the model is not on the Hub.
        loader: the name of transformers' class that loads the model.
    """
    lines = ["import pymultiling as pml", "", f"folder = pml.pull_from_hub({repo})"]
    subfolder = next((name for name in ("specific", "neurons", *contents.sets) if name in contents.sets), None)
    if subfolder is not None:
        lines += [f"sets = pml.load_sets({_path_code(subfolder)})", "print(sets)"]
    if (file := contents.first("statistics")) is not None:
        lines += [f"statistics = pml.NeuronStatistics.load({_path_code(file)})", "print(statistics.documents)"]
    if (file := contents.first("activations")) is not None:
        lines += [f"counts = pml.ActivationStatistics.load({_path_code(file)})", "print(counts.proportion)"]
    if not contents.folders:
        tables = [name for name in files if PurePosixPath(name).suffix == ".csv"]
        lines += [f"print(({_path_code(name)}).read_text('utf-8'))" for name in tables[:1]]
    tuning = contents.first("tuning")
    if model is not None and (subfolder is not None or tuning is not None):
        lines += ["", f"from transformers import {loader}", ""]
        lines.append(f"model = {loader}.from_pretrained({model})")
        if subfolder is not None:
            name = json.dumps(next(iter(contents.folders[subfolder])), ensure_ascii=False)
            lines.append(f"with pml.deactivate(model, sets[{name}]):")
            lines.append("    pass  # every forward here runs without these neurons; the weights are not touched")
        if tuning is not None:
            lines.append(
                f"pml.NeuronTuning.load(model, {_path_code(tuning)}).merge()  # the model is the trained one now"
            )
    return "\n".join(lines)


def _path_code(path: str) -> str:
    """Returns Python code for a path in the pulled folder."""
    return f"folder / {json.dumps(path, ensure_ascii=False)}" if path else "folder"
