"""The command `mwork`."""

from __future__ import annotations

import argparse

from pymultiling.cli.argument_types import count, named, whole
from pymultiling.cli.options import add_model, command, refuse_twice, require

TASKS = ("text", "mgsm", "xquad", "xcopa", "xcsqa", "xlsum")


def add(commands) -> None:
    parser = command(
        commands, "mwork", run, "measure tasks with each part of the model without a language's neurons (MWork)"
    )
    parser.add_argument(
        "--demo", action="store_true", help="the model and texts of the package; nothing else is needed but --out"
    )
    parser.add_argument(
        "--neurons",
        metavar="LANGUAGE=FILE|DIR",
        action="append",
        help="sets that detect wrote, or their folder; repeat",
    )
    of_tasks = parser.add_argument_group(
        "tasks, of .jsonl or .jsonl.gz files; those with field lang hold all languages"
    )
    of_tasks.add_argument(
        "--text",
        metavar="LANGUAGE=FILE",
        type=named,
        action="append",
        help="held-out texts, as for ablate: which second half belongs to a first half; repeat",
    )
    of_tasks.add_argument("--mgsm", metavar="FILE", help="questions and answers")
    of_tasks.add_argument("--exemplars", metavar="FILE", help="worked examples for --mgsm")
    of_tasks.add_argument("--shots", metavar="N", type=whole, default=8, help="of them before a question (%(default)s)")
    of_tasks.add_argument("--xquad", metavar="FILE", help="questions and answers")
    of_tasks.add_argument("--contexts", metavar="FILE", help="paragraphs for --xquad")
    for name, what in (
        ("xcopa", "premises and choices (English is not in XCOPA: give COPA in its fields)"),
        ("xcsqa", "questions and choices"),
        ("xlsum", "articles and summaries"),
    ):
        of_tasks.add_argument(f"--{name}", metavar="LANGUAGE=FILE", type=named, action="append", help=f"{what}; repeat")
    of_tasks.add_argument("--metric", metavar="NAME", help="judge all tasks by it; likelihood serves small models")
    of_tasks.add_argument("--limit", metavar="N", type=count, help="items a language")
    of_parts = parser.add_argument_group("parts of the model: both sizes, or --search")
    of_parts.add_argument("--understanding", metavar="N", type=whole, help="the first N layers")
    of_parts.add_argument("--generation", metavar="N", type=whole, help="the last N layers")
    of_parts.add_argument("--search", metavar="LANGUAGE", help="find both on the first task in this language")
    parser.add_argument("--english", metavar="NAME", default="en", help="English among the languages (%(default)s)")
    parser.add_argument("--seeds", metavar="N", type=count, default=3, help="random sets a row (%(default)s)")
    add_model(parser, required=False)


def run(arguments: argparse.Namespace) -> None:
    from pymultiling.commands import mwork

    for option in ("text", "xcopa", "xcsqa", "xlsum"):
        refuse_twice(arguments, option)
    given = [name for name in ("understanding", "generation") if getattr(arguments, name) is not None]
    if arguments.search and given:
        arguments.parser.error(f"argument --search: not allowed with --{given[0]}")
    if arguments.demo:
        others = [name for name in ("model", "neurons", *TASKS) if getattr(arguments, name) is not None]
        if others:
            arguments.parser.error(f"argument --demo: not allowed with --{others[0]}")
        arguments.search = arguments.search or (None if len(given) == 2 else "fr")
    else:
        require(arguments, ("model", "neurons"))
        if all(getattr(arguments, name) is None for name in TASKS):
            arguments.parser.error(f"no task is given: looked for one of --{', --'.join(TASKS)}")
        for option, other in (("mgsm", "exemplars"), ("xquad", "contexts")):
            if getattr(arguments, option):
                require(arguments, (other,), f"with --{option} ")
        if arguments.search is None:
            require(arguments, ("understanding", "generation"), "without --search ")
    mwork.run(arguments)
