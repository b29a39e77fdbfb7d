"""The command `count`: from corpora to how often every FFN neuron is active."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.cli.shared.argument_types import named
from pymultiling.cli.shared.command import Command, Group, add_command
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import add_documents, add_model, add_pass, documents_pass_of, refuse_twice
from pymultiling.cli.shared.run_record import record_of_pass
from pymultiling.results.folders import result_folder
from pymultiling.results.tables import activation_table

if TYPE_CHECKING:
    from pymultiling.methods.activations import Activations

COMMAND = Command(
    name="count",
    group=Group.FIND,
    summary="count how often every FFN neuron is active for a language",
    title="How often neurons are active",
    about="In how many positions of each language's text every FFN neuron is active.",
    papers={
        "2402.16438": "counts of active neurons, LAPE",
        "2505.21505": "kinds of neuron",
        "2403.09073": "counts of active neurons, parallel input in several languages",
    },
    whole=("revision",),
    example="pymultiling count --model Qwen/Qwen3-0.6B --corpus en=en.txt --corpus fr=fr.txt --out counted",
)


def add(commands) -> None:
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--corpus",
        metavar="LANGUAGE=FILE",
        type=named,
        action="append",
        required=True,
        help="a language's texts, as for detect; with --positions response prompts and responses, in fields of these names; "
        "repeat",
    )
    parser.add_argument(
        "--positions",
        choices=("all", "last", "response"),
        default="all",
        help="all tokens, a document's last one, or those of responses (%(default)s)",
    )
    add_model(parser)
    add_documents(parser)
    add_pass(parser)


def run(arguments: argparse.Namespace) -> None:
    """Counts every language's activations; writes the counts, their proportions by layer, and a plot."""
    from pymultiling.methods.activations import activations
    from pymultiling.runtime.processes import is_first

    refuse_twice(arguments, "corpus")
    if arguments.positions == "response" and arguments.pack is not None:
        arguments.parser.error("argument --pack: not allowed with --positions response")
    corpora = dict(arguments.corpus)
    record = record_of_pass(arguments, corpora)
    model, tokenizer = load(arguments, record)
    with record.stage("count"):
        found = activations(model, tokenizer, corpora, positions=arguments.positions, **documents_pass_of(arguments))
    if not is_first():
        return
    with result_folder(arguments.out) as folder:
        with record.stage("write"):
            _write(found, folder, arguments.model, arguments.positions)
        record.note(texts={name: asdict(report) for name, report in found.corpora.items()})
        record.write(folder)
    print(activation_table(found), end="\n\n")
    for language, report in found.corpora.items():
        print(f"{language}: {report}")
    print(f"\nresults in {arguments.out}, {record.elapsed:.1f} s")


def _write(found: Activations, folder: Path, model: str, positions: str) -> None:
    """Writes counts/ with a file a language, activations.png, and tables with a column a language: proportion.csv, a row a
    layer, and most_active.csv, in how many positions the most active 1% of the neurons are, from the first down."""
    import pandas

    from pymultiling.results import plots

    (folder / "counts").mkdir()
    for language, one in found.items():
        one.save(folder / "counts" / f"{language}.safetensors", model=model, language=language, positions=positions)
    proportions = pandas.DataFrame({language: one.proportion.numpy() for language, one in found.items()})
    proportions.to_csv(folder / "proportion.csv", index_label="layer")
    curves = pandas.DataFrame({language: one.most_active().counts.numpy() for language, one in found.items()})
    curves.to_csv(folder / "most_active.csv", index_label="rank")
    plots.save(plots.activations(found), folder / "activations.png")
