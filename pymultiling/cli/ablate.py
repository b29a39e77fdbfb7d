"""The command `ablate`: perplexities of texts with sets of neurons deactivated."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pymultiling.cli.shared.argument_types import name_and_path, whole_number
from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.earlier_results import read_sets
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import (
    TEXT_FILES,
    add_chat_template,
    add_documents,
    add_model,
    add_pass,
    document_pass_options,
    refuse_duplicates,
    texts_of,
)
from pymultiling.cli.shared.result_files import print_ablation, write_ablation
from pymultiling.cli.shared.run_record import start_pass_record
from pymultiling.cli.shared.stdin import with_stdin
from pymultiling.data.languages import match_language
from pymultiling.methods.random_sets import DRAWS
from pymultiling.results.folders import result_folder
from pymultiling.runtime.suggestions import did_you_mean

if TYPE_CHECKING:
    from pymultiling.neurons.sets import NeuronSet

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
    draws=True,
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
        "such as found/specific, which are named after their files, or the folder that detect wrote, such as found, "
        "whose folder specific is read; may be repeated",
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
        metavar="N",
        type=whole_number,
        default=DRAWS,
        help="for comparison, also measure N random sets for each set, with as many neurons in each site and layer; 0: "
        "none (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", metavar="S", type=int, default=0, help="seed of the random sets (default: %(default)s)"
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
    add_documents(parser, perplexity=True)
    add_chat_template(parser)
    add_pass(parser)


def _compare_names(sets: Mapping[str, NeuronSet], texts: Mapping[str, object]) -> None:
    """Warns of texts without a set of their name, whose own effect is missing in ablation.csv."""
    for name in texts:
        if name not in sets:
            known = match_language(name, sets)
            suggestion = did_you_mean(name, sets) if known is None else f"; did you mean {known}?"
            warnings.warn(
                f"no set of neurons is called {name!r} as these texts are, so that ablation.csv has no effect of their "
                f"own neurons: the sets are {', '.join(sets)}{suggestion}",
                stacklevel=2,
            )


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
    inputs = with_stdin(arguments, texts)
    record.note(seed=arguments.seed if arguments.random else None)
    sets = read_sets(arguments.neurons)
    _compare_names(sets, texts)
    model, tokenizer = load(arguments, record)
    mean = None
    if arguments.mean is not None:
        with record.stage("means"):
            (mean_texts,) = texts_of(arguments, {"mean": arguments.mean}).values()
            options, tokens = document_pass_options(arguments, "means"), arguments.batch_tokens
            mean = mean_activations(model, tokenizer, mean_texts, batch_tokens=tokens, **options)
    with record.stage("ablate"):
        perplexities = ablation_matrix(
            model,
            tokenizer,
            sets,
            inputs,
            scale=arguments.scale,
            mean=mean,
            random_draws=arguments.random,
            seed=arguments.seed,
            batch_tokens=arguments.batch_tokens,
            **document_pass_options(arguments, "perplexity"),
        )
    if not is_first_process():
        return
    with result_folder(arguments.out) as folder:
        with record.stage("write"):
            write_ablation(perplexities, folder)
        record.write(folder)
    print_ablation(perplexities)
    print(f"\nresults are in {arguments.out}; the run took {record.elapsed:.1f} s")
