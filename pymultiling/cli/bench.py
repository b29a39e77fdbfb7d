"""The command `bench`: what measuring costs on this machine, in forwards and operator by operator."""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.cli.shared.argument_types import positive_integer
from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.loading import model_folder
from pymultiling.cli.shared.options import MODELS, add_code, add_device, add_source
from pymultiling.errors import CheckpointError
from pymultiling.results.run import versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pymultiling.methods.benchmark import Benchmark

COMMAND = Command(
    name="bench",
    group=Group.BEGIN,
    summary="time forwards and operators on this machine, and compare them with an earlier run",
    title="Times",
    about="Times of forwards with and without measurements, and of operators.",
    papers={},
    example="pymultiling bench --length 32 --rounds 2 --out bench.json",
)
DEMO = "the demo model"


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    add_source(parser, f"a model: {MODELS} (default: the model in the package)")
    add_code(parser)
    add_device(parser)
    parser.add_argument(
        "--length", metavar="N", type=positive_integer, default=256, help="tokens of the text (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds",
        metavar="N",
        type=positive_integer,
        default=5,
        help="how often everything is timed; medians are printed (default: %(default)s)",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="JSON file for the times; an earlier one is replaced")
    parser.add_argument(
        "--compare", metavar="FILE", type=Path, help="JSON file of an earlier run, to print its times too"
    )


def run(arguments: argparse.Namespace) -> None:
    """Times the model, prints the tables, and writes them.

    Raises:
        CheckpointError: the model cannot be loaded, or the earlier run cannot be read.
        UnsupportedModel: the model cannot be measured.
    """
    from pymultiling.methods.benchmark import Benchmark, time_forwards, time_operators
    from pymultiling.runtime.machine import describe_machine

    earlier = None if arguments.compare is None else _read(arguments.compare)
    model = _load(arguments)
    benchmark = Benchmark(
        environment={"date": date.today().isoformat(), **versions(), **describe_machine()},
        model=arguments.model or DEMO,
        dtype=str(model.dtype).removeprefix("torch."),
        length=arguments.length,
        forwards=time_forwards(model, arguments.length, arguments.rounds),
        operators=time_operators(model, arguments.length, arguments.rounds),
    )
    _print(benchmark, earlier)
    if arguments.out is not None:
        arguments.out.write_text(benchmark.model_dump_json(indent=1) + "\n", "utf-8")
        print(f"\nthe times are in {arguments.out}")


def _read(file: Path) -> Benchmark:
    from pymultiling.methods.benchmark import Benchmark
    from pymultiling.runtime.schemas import SchemaError, parse_json

    try:
        return parse_json(Benchmark, file.read_bytes())
    except (OSError, SchemaError) as error:
        raise CheckpointError(f"{file} is not the file of an earlier `pymultiling bench`: {error}") from None


def _load(arguments: argparse.Namespace) -> PreTrainedModel:
    import torch

    from pymultiling import demo_model
    from pymultiling.models.loading import load_weights, pick_device

    device = pick_device(arguments.device)
    if arguments.model is None:
        dtype = None if arguments.dtype == "auto" else getattr(torch, arguments.dtype)
        model, _ = demo_model.load(dtype)
        return model.to(device)  # type: ignore[arg-type, no-any-return]
    return load_weights(
        model_folder(arguments.model),
        device,
        arguments.dtype,
        arguments.revision,
        trust_remote_code=arguments.trust_remote_code,
    )


def _print(benchmark: Benchmark, earlier: Benchmark | None) -> None:
    import pandas

    print(", ".join(f"{name} {value}" for name, value in benchmark.environment.items()))
    print(f"\n{benchmark.model}, {benchmark.dtype}, a text of {benchmark.length} tokens, without the head\n")
    forwards = pandas.DataFrame(
        [(row.name, row.milliseconds, row.times_plain) for row in benchmark.forwards], columns=["", "ms", "times plain"]
    ).set_index("")
    if earlier is not None:
        forwards["earlier"] = pandas.Series({row.name: row.times_plain for row in earlier.forwards})
    print(forwards.to_string())
    print("\nthe largest call of each operator, ms\n")
    operators = pandas.DataFrame(
        [{"": row.name, "shape": " x ".join(map(str, row.shape)), **row.milliseconds} for row in benchmark.operators]
    ).set_index("")
    if earlier is not None:
        before = pandas.DataFrame({row.name: row.milliseconds for row in earlier.operators}).T
        operators = operators.join(before.add_prefix("earlier "))
    print(operators.to_string(na_rep=""))
