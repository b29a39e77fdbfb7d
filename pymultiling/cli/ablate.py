"""The command `ablate`: perplexities of texts with sets of neurons deactivated."""

from __future__ import annotations

import argparse

from pymultiling.cli.shared.argument_types import name_and_path
from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.earlier_results import read_sets
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import (
    TEXT_FILES,
    add_documents,
    add_model,
    add_pass,
    document_pass_options,
    refuse_duplicates,
    texts_of,
)
from pymultiling.cli.shared.result_files import write_ablation
from pymultiling.cli.shared.run_record import start_pass_record
from pymultiling.results.folders import result_folder
from pymultiling.results.tables import add_random_sets, change_table, log_change, perplexity_table

COMMAND = Command(
    name="ablate",
    group=Group.MEASURE,
    summary="measure the perplexity of texts with each set of neurons deactivated",
    title="Perplexity without language neurons",
    about="Held-out text, with sets of neurons off.",
    papers={"2402.18815": "importance of neurons, language neurons and what happens without them"},
    whole=("revision",),
    example="pymultiling ablate --model Qwen/Qwen3-0.6B --neurons found/specific --texts en=en.heldout.txt "
    "--texts fr=fr.heldout.txt --out ablated",
)


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--neurons",
        metavar="NAME=FILE|DIR",
        action="append",
        required=True,
        help="a set of neurons that detect wrote, such as fr=found/specific/fr.safetensors, or a folder of such sets, "
        "such as found/specific, which are named after their files; may be repeated",
    )
    parser.add_argument(
        "--texts",
        metavar="LANGUAGE=FILE",
        type=name_and_path,
        action="append",
        required=True,
        help=f"texts of one language that were not used to detect the neurons, such as fr=fr.heldout.txt; repeat the "
        f"option for each language. FILE is {TEXT_FILES}",
    )
    parser.add_argument(
        "--random",
        metavar="SEED",
        type=int,
        help="for comparison, also measure a random set for each set, with as many neurons in each site and layer, "
        "drawn with this seed (default: no random sets)",
    )
    replacement = parser.add_mutually_exclusive_group()
    replacement.add_argument(
        "--scale",
        metavar="S",
        type=float,
        default=0.0,
        help="factor that the neurons' values are multiplied by: 0 deactivates them, 2 doubles them "
        "(default: %(default)s)",
    )
    replacement.add_argument(
        "--mean",
        metavar="FILE",
        help="set the neurons to their mean values over the texts in FILE, instead of multiplying them (default: "
        "they are multiplied by --scale)",
    )
    add_model(parser)
    add_documents(parser)
    add_pass(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measures perplexities with each set deactivated or changed.

    Writes the perplexities, the change of their logarithm against the unchanged model, and a heat map of it.
    """
    from pymultiling.methods.ablation import ablation_matrix
    from pymultiling.methods.means import mean_activations
    from pymultiling.runtime.processes import is_first_process

    refuse_duplicates(arguments, "texts")
    texts = dict(arguments.texts)
    record = start_pass_record(arguments, texts | ({} if arguments.mean is None else {"mean": arguments.mean}))
    random_seed = arguments.random
    record.note(seed=random_seed)
    sets = read_sets(arguments.neurons)
    model, tokenizer = load(arguments, record)
    if random_seed is not None:
        sets = add_random_sets(sets, random_seed)
    mean = None
    if arguments.mean is not None:
        with record.stage("means"):
            (mean_texts,) = texts_of(arguments, {"mean": arguments.mean}).values()
            mean = mean_activations(model, tokenizer, mean_texts, **document_pass_options(arguments, "means"))
    with record.stage("ablate"):
        options = document_pass_options(arguments, "perplexity")
        perplexities = ablation_matrix(
            model, tokenizer, sets, texts_of(arguments, texts), scale=arguments.scale, mean=mean, **options
        )
    if not is_first_process():
        return
    with result_folder(arguments.out) as folder:
        with record.stage("write"):
            write_ablation(perplexities, folder)
        record.write(folder)
    print("perplexity of each language (columns) with each set deactivated (rows)")
    print(perplexity_table(perplexities), end="\n\n")
    print('change of log-perplexity against the row "none"')
    print(change_table(log_change(perplexities)))
    print(f"\nresults are in {arguments.out}; the run took {record.elapsed:.1f} s")
