"""The command `ablate`: from neuron sets and texts to the languages' perplexities."""

from __future__ import annotations

import argparse

from pymultiling.cli.shared.argument_types import named
from pymultiling.cli.shared.command import Command, Group, add_command
from pymultiling.cli.shared.earlier_results import read_sets
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import add_documents, add_model, add_pass, documents_pass_of, refuse_twice
from pymultiling.cli.shared.result_files import write_ablation
from pymultiling.cli.shared.run_record import record_of_pass
from pymultiling.results.folders import result_folder
from pymultiling.results.tables import add_random_sets, change_table, log_change, perplexity_table

COMMAND = Command(
    name="ablate",
    group=Group.MEASURE,
    summary="measure every language's perplexity with each set of neurons off",
    title="Perplexity without language neurons",
    about="Held-out text, with sets of neurons off.",
    papers={"2402.18815": "importance of neurons, language neurons and what happens without them"},
    whole=("revision",),
    example="pymultiling ablate --model Qwen/Qwen3-0.6B --neurons found/specific --texts en=en.heldout.txt "
    "--texts fr=fr.heldout.txt --out ablated",
)


def add(commands) -> None:
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--neurons",
        metavar="NAME=FILE|DIR",
        action="append",
        required=True,
        help="a set that detect wrote, or a folder of them, named by file; repeat",
    )
    parser.add_argument(
        "--texts", metavar="LANGUAGE=FILE", type=named, action="append", required=True, help="held-out texts; repeat"
    )
    parser.add_argument("--random", metavar="SEED", type=int, help="measure as many random neurons for every set too")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--scale",
        metavar="S",
        type=float,
        default=0.0,
        help="multiply the neurons by S instead of zero; 2 doubles them",
    )
    what.add_argument("--mean", metavar="FILE", help="set the neurons to their means over these texts instead of zero")
    add_model(parser)
    add_documents(parser)
    add_pass(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measures perplexities with each set off; writes the matrix, its change, and a heat map."""
    from pymultiling.methods.ablation import ablation_matrix
    from pymultiling.methods.means import mean_activations
    from pymultiling.runtime.processes import is_first

    refuse_twice(arguments, "texts")
    texts = dict(arguments.texts)
    record = record_of_pass(arguments, texts | ({} if arguments.mean is None else {"mean": arguments.mean}))
    record.note(seed=arguments.random)
    sets = read_sets(arguments.neurons)
    model, tokenizer = load(arguments, record)
    if arguments.random is not None:
        sets = add_random_sets(sets, arguments.random)
    change = {"scale": arguments.scale}
    if arguments.mean is not None:
        with record.stage("means"):
            options = documents_pass_of(arguments, "means")
            change = {"mean": mean_activations(model, tokenizer, arguments.mean, **options)}
    with record.stage("ablate"):
        options = documents_pass_of(arguments, "perplexity")
        perplexities = ablation_matrix(model, tokenizer, sets, texts, **change, **options)
    if not is_first():
        return
    with result_folder(arguments.out) as folder:
        with record.stage("write"):
            write_ablation(perplexities, folder)
        record.write(folder)
    print("perplexity", perplexity_table(perplexities), sep="\n", end="\n\n")
    print('change of log-perplexity against "none"', change_table(log_change(perplexities)), sep="\n")
    print(f"\nresults in {arguments.out}, {record.elapsed:.1f} s")
