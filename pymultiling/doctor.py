"""`pymultiling doctor`: what can run here, and whether a model can be measured."""

from __future__ import annotations

import os
import platform

import torch

from pymultiling.errors import UnsupportedModel
from pymultiling.models.decoder import Decoder
from pymultiling.ops.dispatch import BACKENDS, unavailable
from pymultiling.runs import versions


def run(model: str | None = None, revision: str | None = None) -> None:
    """Prints what was found.

    Raises:
        CheckpointError, UnsupportedModel: the model that was asked for cannot be measured.
    """
    print(_table({**versions(), **_machine()}), end="\n\n")
    print("backends")
    reasons = {name: unavailable(name) for name in BACKENDS if name != "auto"}
    print(_table({name: f"cannot run: {why}" if why else "can run" for name, why in reasons.items()}, indent="  "))
    if model is not None:
        print(f"\nmodel {model}")
        print(_table(_model(model, revision), indent="  "))


def _machine() -> dict[str, str]:
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "system": platform.platform(),
        "CPU": f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used",
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "GPU": ", ".join(gpus) or "none that torch can use",
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _model(name: str, revision: str | None) -> dict[str, str]:
    from pymultiling.loading import load_skeleton

    skeleton = load_skeleton(name, revision)
    if getattr(skeleton.config, "quantization_config", None):
        raise UnsupportedModel(f"{name} is stored quantised: give a copy with floating-point weights")
    decoder = Decoder(skeleton)
    widths = {site: f"{width:,} neurons a layer" for site, width in decoder.widths().items()}
    return {
        "family": f"{skeleton.config.model_type} ({type(skeleton).__name__})",
        "layers": str(len(decoder.layers)),
        "heads": f"{decoder.layers[0].heads} query, {decoder.layers[0].kv_heads} key-value, of {decoder.layers[0].head_size}",
        **widths,
    }


def _table(rows: dict[str, str], indent: str = "") -> str:
    width = max(map(len, rows))
    return "\n".join(f"{indent}{name:{width}}  {value}" for name, value in rows.items())
