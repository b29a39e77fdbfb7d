"""The command `demo`: the neurons of eight languages in the model of the package, and what happens without them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.cli.shared.argument_types import count
from pymultiling.cli.shared.command import Command, Group, add_command
from pymultiling.cli.shared.demo_detection import (
    DETECTION_DOCUMENTS,
    DOCUMENT_TOKENS,
    HELDOUT_DOCUMENTS,
    SEED,
    SHARE,
    TOP_ATTENTION,
    TOP_FFN,
    detect_demo,
    first_texts_filling,
    load_demo,
    note_demo,
)
from pymultiling.cli.shared.result_files import write_ablation, write_detection
from pymultiling.cli.shared.run_record import record_of
from pymultiling.results.folders import result_folder
from pymultiling.results.run import Run
from pymultiling.results.tables import (
    add_random_sets,
    change_table,
    compare_own_effects,
    counts_by_layer,
    counts_by_site,
    log_change,
    own_table,
    perplexity_table,
)

if TYPE_CHECKING:
    import pandas

COMMAND = Command(
    name="demo",
    group=Group.BEGIN,
    summary="find and switch off the neurons of eight languages in the small model of the package",
    title="Language neurons",
    about="The neurons that matter for each language's text, and what happens without them.",
    papers={"2402.18815": "importance of neurons, language neurons and what happens without them"},
    example="pymultiling demo --out demo",
)


def add(commands) -> None:
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("demo"), help="folder for the results (%(default)s)"
    )
    parser.add_argument(
        "--documents",
        metavar="N",
        type=count,
        default=DETECTION_DOCUMENTS,
        help="documents a language to detect with (%(default)s)",
    )
    parser.add_argument(
        "--heldout",
        metavar="N",
        type=count,
        default=HELDOUT_DOCUMENTS,
        help="held-out documents a language to measure with (%(default)s)",
    )
    parser.add_argument("--seed", metavar="N", type=int, default=SEED, help="seed of the random sets (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Finds each language's neurons, switches them off, prints and writes what happens."""
    record = record_of(arguments)
    with result_folder(arguments.out) as folder:
        with record.stage("load"):
            from pymultiling import demo_model

            model, tokenizer, corpora = load_demo(arguments.documents)
            heldout = {
                name: first_texts_filling(texts, tokenizer, arguments.heldout)
                for name, texts in demo_model.heldout().items()
            }
        detection = detect_demo(model, tokenizer, corpora, record)
        _show(detection.report())
        perplexities = _ablate(model, tokenizer, detection.specific(at_most=1), heldout, arguments.seed, record)
        with record.stage("write"):
            write_detection(detection, folder, "embedded")
            write_ablation(perplexities, folder)
        record.note(seed=arguments.seed)
        note_demo(record, model, corpora, heldout)
        record.write(folder)
    print(f"\nresults in {arguments.out}: neuron sets, statistics, tables, plots and run.json")
    print(f"the demo took {record.elapsed:.1f} s")


def _show(report: pandas.DataFrame) -> None:
    print(f"Neurons among the top {TOP_FFN:.0%} (FFN) and {TOP_ATTENTION:.0%} (q, k, v, o) of their layer in at least")
    print(f"{SHARE:.0%} of a language's documents: all, and those selected for that language alone\n")
    print(counts_by_site(report), end="\n\n")
    print("Those selected for one language alone, by site and layer\n")
    print(counts_by_layer(report), end="\n\n", flush=True)


def _ablate(model, tokenizer, specific, texts: dict[str, list[str]], seed: int, record: Run):
    from pymultiling.methods.ablation import ablation_matrix

    with record.stage("ablate"):
        perplexities = ablation_matrix(
            model, tokenizer, add_random_sets(specific, seed), texts, pack=DOCUMENT_TOKENS, progress=True
        )
    change = log_change(perplexities)
    print(
        "Perplexity of held-out text (columns) with neurons off (rows): none, a language's own, as many random ones\n"
    )
    print(perplexity_table(perplexities), end="\n\n")
    print("The same as change of log-perplexity against none\n")
    print(change_table(change), end="\n\n")
    print("A language's own neurons off: change for itself, mean change for the others; random ones off: for itself")
    print("(ratios: - where the other neurons do no harm to compare with)\n")
    print(own_table(compare_own_effects(change)))
    return perplexities
