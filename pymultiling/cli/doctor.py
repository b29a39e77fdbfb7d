"""The command `doctor`: what can run here, and whether a model can be measured."""

from __future__ import annotations

import argparse
import os
import platform
from typing import TYPE_CHECKING

from pymultiling.cli.shared.command import Command, Group, add_command
from pymultiling.cli.shared.options import add_families
from pymultiling.errors import UnsupportedModel
from pymultiling.results.run import versions

if TYPE_CHECKING:
    from torch import nn

    from pymultiling.models.decoder import Layer
    from pymultiling.models.linear import Projection

COMMAND = Command(
    name="doctor",
    group=Group.BEGIN,
    summary="say what can run here, and whether a model can be measured",
    title="What can run",
    about="Versions, backends, and whether importance is what setting neurons to zero does.",
    papers={},
    example="pymultiling doctor --model Qwen/Qwen3-0.6B",
)
AGREES = 1e-2  # the largest relative difference that rounding is taken for; where all is well it is some 1e-5


def add(commands) -> None:
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--model",
        metavar="DIR|NAME",
        help="a model to look at, and to check: a few neurons are set to zero, on the CPU in float32",
    )
    parser.add_argument("--revision", metavar="REV", help="its revision, on the Hub")
    add_families(parser)
    parser.add_argument("--no-check", action="store_true", help="only look at the model: its weights are not loaded")


def run(arguments: argparse.Namespace) -> None:
    """Prints what was found; CheckpointError or UnsupportedModel where the model that was asked for cannot be measured."""
    from pymultiling.models.loading import load_tokenizer
    from pymultiling.ops import unavailable
    from pymultiling.ops.registry import BACKENDS

    print(_table({**versions(), **_machine()}), end="\n\n")
    print("backends")
    reasons = {name: unavailable(name) for name in BACKENDS if name != "auto"}
    print(_table({name: f"cannot run: {why}" if why else "can run" for name, why in reasons.items()}, indent="  "))
    if arguments.model is not None:
        _look_at(arguments.model, arguments.revision)
        if not arguments.no_check:
            _check(arguments.model, arguments.revision)
        load_tokenizer(arguments.model, arguments.revision)


def _look_at(name: str, revision: str | None) -> None:
    from pymultiling.models.decoder import Decoder
    from pymultiling.models.loading import load_without_weights

    print(f"\nmodel {name}")
    skeleton = load_without_weights(name, revision)
    if getattr(skeleton.config, "quantization_config", None):
        raise UnsupportedModel(f"{name} is stored quantised: give a copy with floating-point weights")
    decoder = Decoder(skeleton)
    layer = decoder.layers[0]
    widths = {site: f"{width:,} neurons a layer" for site, width in decoder.widths().items()}
    if layer.experts is not None:
        widths["ffn"] += f": {layer.experts.count} experts of {layer.experts.size:,}"
    heads = f"{layer.heads} query, {layer.kv_heads} key-value, of {layer.head_size}"
    family = f"{skeleton.config.model_type} ({type(skeleton).__name__})"
    print(_table({"family": family, "layers": str(len(decoder.layers)), "heads": heads, **widths}, indent="  "))
    print("\nwhere layer 0 has them")
    print(_table(_places(skeleton, layer), indent="  "))


def _places(model: nn.Module, layer: Layer) -> dict[str, str]:
    """The path of every module, and which of its outputs are meant where not all are."""
    from pymultiling.models.linear import Projection

    names = {module: name for name, module in model.named_modules()}
    if layer.experts is not None:
        ffn = {"experts": layer.experts.module}
    else:
        ffn = {"gate": layer.up and layer.gate, "up": layer.up or layer.gate, "down": layer.down}
    parts = {
        "q": layer.q,
        "k": layer.k,
        "v": layer.v,
        "o": layer.o,
        **ffn,
        "norm of q": layer.q_norm,
        "norm of k": layer.k_norm,
        "norm behind attention": layer.attention_norm,
        "norm behind FFN": layer.ffn_norm,
    }
    return {
        name: _place(names, part) if isinstance(part, Projection) else names[part]
        for name, part in parts.items()
        if part is not None
    }


def _place(names: dict[nn.Module, str], projection: Projection) -> str:
    from pymultiling.models.linear import weight_of

    outputs, name = weight_of(projection.module).shape[0], names[projection.module]
    if projection.width == outputs:
        return name
    within = str(outputs) if projection.groups == 1 else f"each block of {outputs // projection.groups}"
    return f"{name}, outputs {projection.start} to {projection.stop - 1} of {within}"


def _check(name: str, revision: str | None) -> None:
    import torch

    from pymultiling.models.loading import load_weights
    from pymultiling.probes.verification import spot_check

    print("\na few neurons set to zero, in the first and the last layer", flush=True)
    differences = spot_check(load_weights(name, torch.device("cpu"), "float32", revision))
    wrong = {site: difference for site, difference in differences.items() if not difference <= AGREES}
    print(_table({site: _agreement(difference) for site, difference in differences.items()}, indent="  "))
    if wrong:
        raise UnsupportedModel(
            f"importance is not what setting neurons to zero does to {name}, at {', '.join(wrong)}: its modules are "
            "not used as its family says (pymultiling.Family lists what can differ)"
        )


def _agreement(difference: float) -> str:
    return f"agrees to {difference:.0e}" if difference <= AGREES else f"does not agree: off by {difference:.0e}"


def _machine() -> dict[str, str]:
    import torch

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


def _table(rows: dict[str, str], indent: str = "") -> str:
    width = max(map(len, rows))
    return "\n".join(f"{indent}{name:{width}}  {value}" for name, value in rows.items())
