"""The command `pmi`."""

from __future__ import annotations

import argparse

from pymultiling.cli.argument_types import codes, count, named, whole
from pymultiling.cli.options import add_model, command, require

TASKS = ("translation", "math", "nli", "free")
MADE = ("translation", "paraphrase", "back-translation")


def add(commands) -> None:
    parser = command(commands, "pmi", run, "compare input in one language with the same in several at once (PMI)")
    parser.add_argument(
        "--inputs",
        metavar="FILE",
        required=True,
        help="parallel texts: a .tsv or .tsv.gz with a column a language; for math and nli .jsonl or .jsonl.gz with fields "
        "lang, id, and question and answer, or premise, hypothesis and label",
    )
    parser.add_argument("--task", choices=TASKS, default="translation", help="what is asked for (%(default)s)")
    parser.add_argument("--source", metavar="CODE", required=True, help="the input that is the original")
    parser.add_argument(
        "--others", metavar="CODES", type=codes, help="inputs to add, such as es,ru,fr, in this order (all there are)"
    )
    parser.add_argument("--target", metavar="CODE", help="language of the answers; for translation and free a column")
    parser.add_argument("--pivot", metavar="CODE", help="an input to compare with that is given alone")
    parser.add_argument(
        "--positions",
        choices=("last", "all", "response"),
        default="last",
        help="where neurons are counted: at a prompt's last token, at all of it, or in the answer (%(default)s)",
    )
    parser.add_argument("--count-only", action="store_true", help="count active neurons; generate and score no answers")
    parser.add_argument("--limit", metavar="N", type=count, help="items to compare, examples not among them")
    parser.add_argument(
        "--shots", metavar="N", type=whole, default=0, help="the first N items are shown as examples (%(default)s)"
    )
    parser.add_argument("--template", metavar="NAME|FILE", help="another template of prompts than the task's own")
    parser.add_argument("--instruction", metavar="TEXT", default="", help="what to do, for the task free")
    parser.add_argument("--chat", action="store_true", help="give prompts as messages, in the model's chat template")
    parser.add_argument(
        "--name",
        metavar="CODE=ENGLISH",
        type=named,
        action="append",
        help="what a language is called in prompts; repeat",
    )
    parser.add_argument("--comet", metavar="NAME|FILE", help="score translations with this COMET model too")
    made = parser.add_argument_group("inputs made by a model, of the source's")
    made.add_argument(
        "--make", choices=MADE, help="how: for paraphrase --number, else --others are made or gone through"
    )
    made.add_argument("--by", metavar="NAME|DIR", help="the model: on the server, or a Hugging Face one")
    made.add_argument(
        "--base-url", metavar="URL", help="an OpenAI-compatible server, up to /v1; its key in OPENAI_API_KEY"
    )
    made.add_argument("--number", metavar="N", type=count, help="how many, for paraphrase (3)")
    made.add_argument("--cache", metavar="FILE", help="keeps what was made, so that another run goes on from there")
    add_model(parser)


def run(arguments: argparse.Namespace) -> None:
    from pymultiling.commands import pmi

    if arguments.task in ("translation", "free"):
        require(arguments, ("target",), f"for --task {arguments.task} ")
    if arguments.task == "free" and not arguments.instruction:
        arguments.parser.error("for --task free --instruction is required")
    if arguments.positions == "response" and arguments.count_only:
        arguments.parser.error("argument --count-only: not allowed with --positions response")
    if arguments.make is None:
        for option in ("by", "base_url", "cache"):
            if getattr(arguments, option) is not None:
                arguments.parser.error(f"argument --{option.replace('_', '-')}: not allowed without --make")
    else:
        require(arguments, ("by",), "with --make ")
        if arguments.make != "paraphrase":
            require(arguments, ("others",), f"with --make {arguments.make} ")
        elif arguments.others is not None:
            arguments.parser.error("argument --others: not allowed with --make paraphrase")
    if arguments.number is not None and arguments.make != "paraphrase":
        arguments.parser.error("argument --number: not allowed without --make paraphrase")
    for name in (arguments.source, arguments.target):
        if name in (arguments.others or ()):
            arguments.parser.error(f"argument --others: {name!r} is the source or the target")
    pmi.run(arguments)
