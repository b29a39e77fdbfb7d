"""The command `demo`: finds the neurons of eight languages in the demo model and deactivates them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.cli.shared.argument_types import positive_integer
from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.demo_detection import (
    DETECTION_DOCUMENTS,
    DOCUMENT_TOKENS,
    HELDOUT_DOCUMENTS,
    RECORDED_MODEL_NAME,
    SEED,
    SHARE,
    TOP_ATTENTION,
    TOP_FFN,
    detect_demo,
    first_texts_filling,
    load_demo,
    note_demo,
)
from pymultiling.cli.shared.result_files import print_ablation, write_ablation, write_detection
from pymultiling.cli.shared.run_record import start_record
from pymultiling.methods.random_sets import DRAWS
from pymultiling.results.folders import result_folder
from pymultiling.results.run import Run
from pymultiling.results.tables import counts_by_layer, counts_by_site

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pymultiling.neurons.sets import NeuronSet

COMMAND = Command(
    name="demo",
    group=Group.BEGIN,
    summary="find and deactivate the neurons of eight languages in the demo model of the package",
    title="Language neurons",
    about="The neurons that matter for each language's text, and what happens without them.",
    papers={"2402.18815": "importance of neurons, language neurons and what happens without them"},
    example="pymultiling demo --out demo",
    draws=True,
)


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("demo"),
        help="folder for the results; it is created, and the results of an earlier run in it are replaced "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--documents",
        metavar="N",
        type=positive_integer,
        default=DETECTION_DOCUMENTS,
        help=f"documents of {DOCUMENT_TOKENS} tokens per language to find its neurons with (default: %(default)s)",
    )
    parser.add_argument(
        "--heldout",
        metavar="N",
        type=positive_integer,
        default=HELDOUT_DOCUMENTS,
        help=f"other documents of {DOCUMENT_TOKENS} tokens per language to measure perplexity on (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=SEED,
        help="seed of the random sets of neurons that are measured for comparison (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Finds each language's neurons, measures perplexities without them, and prints and writes the results."""
    record = start_record(arguments)
    with result_folder(arguments.out) as folder:
        with record.stage("load"):
            from pymultiling import demo_model

            model, tokenizer, corpora = load_demo(arguments.documents)
            heldout = {
                language: first_texts_filling(texts, tokenizer, arguments.heldout)
                for language, texts in demo_model.heldout().items()
            }
        detection = detect_demo(model, tokenizer, corpora, record, not arguments.quiet)
        _print_report(detection.report())
        specific = detection.specific(at_most=1)
        perplexities = _ablate(model, tokenizer, specific, heldout, arguments.seed, record, not arguments.quiet)
        with record.stage("write"):
            write_detection(detection, folder, RECORDED_MODEL_NAME)
            write_ablation(perplexities, folder)
        record.note(seed=arguments.seed)
        note_demo(record, model, corpora, heldout)
        record.write(folder)
    print(f"\nneuron sets, statistics, tables, plots and run.json are in {arguments.out}")
    print(f"the demo took {record.elapsed:.1f} s")


def _print_report(report: pandas.DataFrame) -> None:
    print(
        f"A neuron is selected for a language if it is among the top {TOP_FFN:.0%} (FFN) or {TOP_ATTENTION:.0%} "
        "(each of"
    )
    print(f"q, k, v, o) of its layer in at least {SHARE:.0%} of the language's documents.\n")
    print("Number of selected neurons, and of those that are selected for this language only, by site\n")
    print(counts_by_site(report), end="\n\n")
    print("Number of neurons that are selected for this language only, by site and layer\n")
    print(counts_by_layer(report), end="\n\n", flush=True)


def _ablate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sets: Mapping[str, NeuronSet],
    texts: dict[str, list[str]],
    seed: int,
    record: Run,
    progress: bool,
) -> pandas.DataFrame:
    from pymultiling.methods.ablation import ablation_matrix

    with record.stage("ablate"):
        perplexities = ablation_matrix(
            model, tokenizer, sets, texts, random_draws=DRAWS, seed=seed, pack=DOCUMENT_TOKENS, progress=progress
        )
    print_ablation(perplexities)
    return perplexities
