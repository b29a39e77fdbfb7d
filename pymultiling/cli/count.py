"""The command `count`: how often each FFN neuron is active in each language's texts."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from pymultiling.cli.shared.activity_files import write_counts
from pymultiling.cli.shared.argument_types import name_and_path
from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.options import (
    TEXT_FILES,
    add_chat_template,
    add_documents,
    add_model,
    add_pass,
    document_pass_options,
    pack_or_none,
    refuse_duplicates,
    tokens_or_none,
)
from pymultiling.cli.shared.run_record import start_pass_record
from pymultiling.cli.shared.stdin import with_stdin
from pymultiling.data.chat import RULE
from pymultiling.results.folders import result_folder
from pymultiling.results.tables import TOP_SHARE, activation_table

COMMAND = Command(
    name="count",
    group=Group.FIND,
    summary="count how often each FFN neuron is active in each language's texts",
    title="How often neurons are active",
    about="In how many positions of each language's text every FFN neuron is active.",
    papers={
        "2402.16438": "counts of active neurons, LAPE",
        "2505.21505": "kinds of neuron",
        "2403.09073": "counts of active neurons, parallel input in several languages",
    },
    whole=("revision",),
    example="pymultiling count --model Qwen/Qwen3-0.6B --corpus en=en.txt --corpus fr=fr.txt --out counted",
    draws=True,
)


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "--corpus",
        metavar="LANGUAGE=FILE",
        type=name_and_path,
        action="append",
        required=True,
        help=f"texts of one language, such as fr=fr.txt; repeat the option for each language. FILE is {TEXT_FILES}. "
        "With --positions response the records have the fields prompt and response",
    )
    parser.add_argument(
        "--positions",
        choices=("all", "last", "response"),
        default="all",
        help="positions (tokens) that are counted: all of a document, its last one, or those of the response to a "
        "prompt (default: %(default)s)",
    )
    add_model(parser, by_memory=True)
    add_documents(parser)
    add_chat_template(parser)
    add_pass(parser)


def run(arguments: argparse.Namespace) -> None:
    """Counts each language's activations, and writes the counts, their proportions by layer and a plot."""
    from pymultiling.methods.activations import activations
    from pymultiling.runtime.processes import is_first_process

    refuse_duplicates(arguments, "corpus")
    if arguments.positions == "response" and pack_or_none(arguments) is not None:
        arguments.parser.error("argument --pack: not allowed with --positions response")
    corpora = dict(arguments.corpus)
    record = start_pass_record(arguments, corpora)
    inputs = with_stdin(arguments, corpora)
    model, tokenizer = load(arguments, record)
    with record.stage("count"):
        counts = activations(
            model,
            tokenizer,
            inputs,
            positions=arguments.positions,
            batch_tokens=tokens_or_none(arguments),
            **document_pass_options(arguments),
        )
    if not is_first_process():
        return
    with result_folder(arguments.out) as folder:
        with record.stage("write"):
            facts = {"model": arguments.model, "positions": arguments.positions}
            if arguments.chat_template:
                facts["texts"] = RULE
            write_counts(counts, folder, facts)
        record.note(texts={language: asdict(report) for language, report in counts.corpora.items()})
        record.write(folder)
    print(activation_table(counts))
    print(f"active: the fraction of the FFN neurons that are active in a position; {TOP_SHARE}", end="\n\n")
    for language, report in counts.corpora.items():
        print(f"{language}: {report}")
    print(f"\nresults are in {arguments.out}; the run took {record.elapsed:.1f} s")
