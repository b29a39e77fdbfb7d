"""The command `export`: a checkpoint in which the neurons of a set are off, for any program that loads models."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.earlier_results import read_sets
from pymultiling.cli.shared.loading import model_folder
from pymultiling.cli.shared.options import add_code, add_source
from pymultiling.cli.shared.run_record import start_record
from pymultiling.results.folders import result_folder
from pymultiling.runtime.new_folder import require_new_folder

COMMAND = Command(
    name="export",
    group=Group.SHARE,
    summary="write a checkpoint in which the neurons of a set are off, for vLLM, llama.cpp and others",
    title="A model with neurons off",
    about="A model's weights, changed so that the neurons of a set are off or scaled.",
    papers={"2402.18815": "importance of neurons, language neurons and what happens without them"},
    whole=("revision",),
    example="pymultiling export --model Qwen/Qwen3-0.6B --neurons found/specific --out languages-off",
)


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    add_source(
        parser,
        "the model: a folder that save_pretrained wrote, or a name on the Hugging Face Hub such as Qwen/Qwen3-0.6B; it "
        "is not loaded, and may be larger than the memory",
        required=True,
        metavar="DIR|NAME",
    )
    parser.add_argument(
        "--neurons",
        metavar="NAME=FILE|DIR",
        action="append",
        required=True,
        help="a set of neurons that detect wrote, such as fr=found/specific/fr.safetensors or fr=found/specific, or a "
        "folder of such sets, such as found/specific; may be repeated",
    )
    parser.add_argument(
        "--scale",
        metavar="S",
        type=float,
        default=0.0,
        help="factor that the neurons' activations are multiplied by: 0 switches them off, 2 doubles them (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="number format of the written weights; auto: as they are stored (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder of the checkpoint, or with several sets, for a folder of each; it must not exist, or be empty",
    )
    add_code(parser)


def run(arguments: argparse.Namespace) -> None:
    """Writes a checkpoint for each set."""
    from pymultiling.methods.export import export
    from pymultiling.models.loading import hub_commit, silence_transformers

    require_new_folder(arguments.out)
    record = start_record(arguments)
    sets = read_sets(arguments.neurons)
    first = next(iter(sets))
    folders = {name: arguments.out if len(sets) == 1 else arguments.out / name for name in sets}
    silence_transformers()
    with result_folder(arguments.out) as folder:
        with record.stage("write"):
            export(
                model_folder(arguments.model),
                None,
                sets if len(sets) > 1 else sets[first],
                folder,
                scale=arguments.scale,
                dtype=arguments.dtype,
                revision=arguments.revision,
                trust_remote_code=arguments.trust_remote_code,
            )
        config = json.loads((folder / folders[first].relative_to(arguments.out) / "config.json").read_text("utf-8"))
        record.note(
            model={
                "name": arguments.model,
                "revision": hub_commit(arguments.model, arguments.revision),
                "type": config["model_type"],
                "dtype": config.get("dtype") or config.get("torch_dtype") or arguments.dtype,
            }
        )
        record.write(folder)
    what = f"scaled by {arguments.scale:g}" if arguments.scale else "switched off"
    for name, neurons in sets.items():
        print(f"{folders[name]}: {len(neurons):,} neurons of {name} {what}")
    print(f"\nthe run took {record.elapsed:.1f} s")
