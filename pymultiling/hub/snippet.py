"""The lines of Python in a card: they pull the folder, load what is in it, and run as they are."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from pymultiling.hub.contents import Contents


def snippet(contents: Contents, files: list[str], repo: str, model: str | None) -> str:
    """Python for a card.

    Args:
        contents: the safetensors files.
        files: names of all files.
        repo: what `pull_from_hub` takes, as it is written in Python.
        model: what `from_pretrained` takes; None: the model is not on the Hub.
    """
    lines = ["import pymultiling as pml", "", f"folder = pml.pull_from_hub({repo})"]
    chosen = next((one for one in ("specific", "neurons", *contents.sets) if one in contents.sets), None)
    if chosen is not None:
        lines += [f"sets = pml.load_sets({_place(chosen)})", "print(sets)"]
    if (found := contents.first("statistics")) is not None:
        lines += [f"statistics = pml.NeuronStatistics.load({_place(found)})", "print(statistics.documents)"]
    if (found := contents.first("activations")) is not None:
        lines += [f"counts = pml.ActivationStatistics.load({_place(found)})", "print(counts.proportion)"]
    if not contents.folders:
        tables = [name for name in files if PurePosixPath(name).suffix == ".csv"]
        lines += [f"print(({_place(name)}).read_text('utf-8'))" for name in tables[:1]]
    tuning = contents.first("tuning")
    if model is not None and (chosen is not None or tuning is not None):
        lines += ["", "from transformers import AutoModelForCausalLM", ""]
        lines.append(f"model = AutoModelForCausalLM.from_pretrained({model})")
        if chosen is not None:
            name = json.dumps(next(iter(contents.folders[chosen])), ensure_ascii=False)
            lines.append(f"with pml.deactivate(model, sets[{name}]):")
            lines.append("    pass  # every forward here runs without these neurons; the weights are not touched")
        if tuning is not None:
            lines.append(f"pml.NeuronTuning.load(model, {_place(tuning)}).merge()  # the model is the trained one now")
    return "\n".join(lines)


def _place(path: str) -> str:
    return f"folder / {json.dumps(path, ensure_ascii=False)}" if path else "folder"
