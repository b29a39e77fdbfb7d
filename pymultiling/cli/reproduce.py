"""The command `reproduce`: the tables of a paper, on a model and texts of the user."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pymultiling.cli.reproduction import ilo, plnd, pmi, ternary
from pymultiling.cli.shared.argument_types import language_codes, positive_integer, positive_number
from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.cli.shared.options import add_model

PAPERS = {"plnd": plnd, "ilo": ilo, "ternary": ternary, "pmi": pmi}

COMMAND = Command(
    name="reproduce",
    group=Group.MEASURE,
    summary="make the tables of a paper with a model and texts of your own",
    title="A paper's tables",
    about="The tables of a paper, made with another model and other texts.",
    papers={
        "2402.18815": "language neurons, what happens without them, and the parts of the model",
        "2503.11280": "interlingual local overlap",
        "2505.21505": "specific, related and general neurons",
        "2403.09073": "parallel input in several languages",
    },
    whole=("revision",),
    whole_facts=("departures", "left_out"),
    example="pymultiling reproduce plnd --model Qwen/Qwen3-0.6B --data texts --minutes 10 --out reproduced",
    draws=True,
)


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "paper",
        choices=tuple(PAPERS),
        help="plnd: language neurons and the parts of the model (arXiv 2402.18815); ilo: interlingual local overlap, "
        "before training (arXiv 2503.11280); ternary: specific, related and general neurons, before alignment (arXiv "
        "2505.21505); pmi: input in several languages at once, before fine-tuning (arXiv 2403.09073)",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder with the data. For plnd and ternary: corpora/LANGUAGE.txt and corpora/LANGUAGE.heldout.txt, one "
        "text a line (or .jsonl, .parquet; .gz, .zst), and, as far as they are there, tasks/mgsm.jsonl with "
        "tasks/mgsm_exemplars.jsonl; for plnd also tasks/xquad.jsonl with tasks/xquad_contexts.jsonl, "
        "tasks/xcsqa.jsonl and tasks/xlsum.jsonl; for ternary also tasks/msvamp.jsonl. For ilo and pmi: "
        "parallel/NAME.tsv (.gz, .zst), a table of translations with a column for each language",
    )
    parser.add_argument(
        "--languages",
        metavar="A,B,C",
        type=language_codes,
        help="languages to take, such as fr,de; plnd and ternary add English; for pmi the first one is the source, and "
        "the others are added to it in order (default: for plnd and ternary all that have texts, held-out texts and "
        "items of a task; for ilo the paper's 31, as far as they are in the table; for pmi German, Spanish, Russian, "
        "French, Chinese, Japanese and Czech)",
    )
    parser.add_argument(
        "--minutes",
        metavar="N",
        type=positive_number,
        help="measure as many items as fit into N minutes, the same number in each language; a later run with more "
        "minutes, or without the option, goes on from there (default: all items)",
    )
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="for plnd, ternary and pmi: metric of all tasks, such as likelihood (the mean log-likelihood of the right "
        "answer), which shows differences in small models too (default: each task's own; for pmi bleu)",
    )
    parser.add_argument(
        "--seeds",
        metavar="N",
        type=positive_integer,
        help="for plnd and ternary: number of random sets of neurons per row of the tables of tasks, for comparison "
        "(default: 3)",
    )
    add_model(parser)


def run(arguments: argparse.Namespace) -> None:
    """Checks the data folder, measures what is not measured yet, and prints and writes the paper's tables."""
    PAPERS[arguments.paper].run(arguments, time.monotonic())
