"""The command line. Importing this module, and --help, load neither torch nor transformers."""

from __future__ import annotations

import argparse
import sys
import traceback
import warnings
from pathlib import Path
from typing import NoReturn

from pymultiling import __version__, demo
from pymultiling.errors import BackendUnavailable, NonFiniteActivations, UnsupportedModel
from pymultiling.sites import SITES, check_sites

MWORK_TASKS = ("text", "mgsm", "xquad", "xcopa", "xcsqa", "xlsum")
DONE, FAILED = 0, 1  # argparse exits with 2 for wrong arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"pymultiling {arguments.command}: {message}", file=sys.stderr)
        try:
            arguments.run(arguments)
            return DONE
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, it becomes a sentence
            if arguments.debug:
                traceback.print_exc()
            print(f"pymultiling {arguments.command}: {_sentence(error)}", file=sys.stderr)
            return FAILED


def _sentence(error: BaseException) -> str:
    message = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing was written"
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'} cannot be read or written: {error.strerror or message}"
    if type(error).__name__ == "OutOfMemoryError":
        return "out of memory: give a smaller --batch-tokens or --max-length, or --dtype bfloat16"
    if isinstance(error, (ValueError, BackendUnavailable, NonFiniteActivations, UnsupportedModel)):
        return message
    return f"{type(error).__name__}: {message}; this should not happen, run it again with --debug and report what it prints"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pymultiling",
        description="Which neurons of a language model a language uses, and what happens without them.",
    )
    parser.add_argument("--version", action="version", version=f"pymultiling {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_detect(commands)
    _add_ablate(commands)
    _add_mwork(commands)
    _add_doctor(commands)
    return parser


def _command(commands, name: str, run, what: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=what, description=what)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run, parser=parser)
    return parser


def _add_demo(commands) -> None:
    parser = _command(
        commands, "demo", _demo, "find and switch off the neurons of eight languages in the small model of the package"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("demo"), help="folder for the results (%(default)s)"
    )
    parser.add_argument(
        "--documents",
        metavar="N",
        type=_count,
        default=demo.DOCUMENTS,
        help="documents a language to detect with (%(default)s)",
    )
    parser.add_argument(
        "--heldout",
        metavar="N",
        type=_count,
        default=demo.HELDOUT,
        help="held-out documents a language to measure with (%(default)s)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=demo.SEED, help="seed of the random sets (%(default)s)"
    )


def _add_detect(commands) -> None:
    parser = _command(commands, "detect", _detect, "find the neurons of every language")
    parser.add_argument(
        "--corpus",
        metavar="LANGUAGE=FILE",
        type=_named,
        action="append",
        required=True,
        help="a language's texts: .txt (one a line), .jsonl (field text), both also .gz, or .parquet (column text); repeat",
    )
    _add_model(parser)
    _add_documents(parser)
    rule = parser.add_argument_group(
        "which neurons are selected: --threshold, or the most important of a layer and site"
    )
    rule.add_argument("--threshold", metavar="E", type=float, help="importance of at least E in every document")
    amount = "how many {}, a fraction, or a count such as 100 (0.1)"
    rule.add_argument("--ffn", metavar="K", type=_amount, default=argparse.SUPPRESS, help=amount.format("FFN neurons"))
    rule.add_argument(
        "--attention", metavar="K", type=_amount, default=argparse.SUPPRESS, help=amount.format("of each of q, k, v, o")
    )
    share = "share of the documents in which they must be among them (1.0)"
    rule.add_argument("--share", metavar="S", type=float, default=argparse.SUPPRESS, help=share)
    parser.add_argument("--sites", metavar="SITES", type=_sites, default=SITES, help="some of ffn,q,k,v,o (all)")
    parser.add_argument(
        "--rope", choices=("pre", "post"), default="pre", help="zero q and k before or after the rotation (%(default)s)"
    )
    parser.add_argument(
        "--score",
        choices=("importance", "released"),
        default="importance",
        help="the paper's, or its published code's (%(default)s)",
    )
    parser.add_argument(
        "--qk",
        choices=("exact", "fast"),
        default="exact",
        help="q and k: every key of every row, or at most 16, an estimate (%(default)s)",
    )


def _add_ablate(commands) -> None:
    parser = _command(commands, "ablate", _ablate, "measure every language's perplexity with each set of neurons off")
    parser.add_argument(
        "--neurons",
        metavar="NAME=FILE|DIR",
        action="append",
        required=True,
        help="a set that detect wrote, or a folder of them, named by file; repeat",
    )
    parser.add_argument(
        "--texts", metavar="LANGUAGE=FILE", type=_named, action="append", required=True, help="held-out texts; repeat"
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
    _add_model(parser)
    _add_documents(parser)


def _add_mwork(commands) -> None:
    parser = _command(
        commands, "mwork", _mwork, "measure tasks with each part of the model without a language's neurons (MWork)"
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
        type=_named,
        action="append",
        help="held-out texts, as for ablate: which second half belongs to a first half; repeat",
    )
    of_tasks.add_argument("--mgsm", metavar="FILE", help="questions and answers")
    of_tasks.add_argument("--exemplars", metavar="FILE", help="worked examples for --mgsm")
    of_tasks.add_argument(
        "--shots", metavar="N", type=_whole, default=8, help="of them before a question (%(default)s)"
    )
    of_tasks.add_argument("--xquad", metavar="FILE", help="questions and answers")
    of_tasks.add_argument("--contexts", metavar="FILE", help="paragraphs for --xquad")
    for name, what in (
        ("xcopa", "premises and choices (English is not in XCOPA: give COPA in its fields)"),
        ("xcsqa", "questions and choices"),
        ("xlsum", "articles and summaries"),
    ):
        of_tasks.add_argument(
            f"--{name}", metavar="LANGUAGE=FILE", type=_named, action="append", help=f"{what}; repeat"
        )
    of_tasks.add_argument("--metric", metavar="NAME", help="judge all tasks by it; likelihood serves small models")
    of_tasks.add_argument("--limit", metavar="N", type=_count, help="items a language")
    of_parts = parser.add_argument_group("parts of the model: both sizes, or --search")
    of_parts.add_argument("--understanding", metavar="N", type=_whole, help="the first N layers")
    of_parts.add_argument("--generation", metavar="N", type=_whole, help="the last N layers")
    of_parts.add_argument("--search", metavar="LANGUAGE", help="find both on the first task in this language")
    parser.add_argument("--english", metavar="NAME", default="en", help="English among the languages (%(default)s)")
    parser.add_argument("--seeds", metavar="N", type=_count, default=3, help="random sets a row (%(default)s)")
    _add_model(parser, required=False)


def _add_doctor(commands) -> None:
    parser = _command(commands, "doctor", _doctor, "say what can run here, and whether a model can be measured")
    parser.add_argument("--model", metavar="DIR|NAME", help="a model to look at; its weights are not loaded")
    parser.add_argument("--revision", metavar="REV", help="its revision, on the Hub")


def _add_model(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--model", metavar="DIR|NAME", required=required, help="a folder, or a name on the Hugging Face Hub"
    )
    parser.add_argument("--revision", metavar="REV", help="the model's revision, on the Hub")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--batch-tokens",
        metavar="N",
        type=_count,
        default=4096,
        help="tokens in one forward, padding included (%(default)s)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA if there is any")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="auto: as stored; float16 as float32",
    )


def _add_documents(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pack", metavar="N", type=_count, help="join a language's texts into documents of N tokens")
    parser.add_argument(
        "--max-length", metavar="N", type=_count, default=512, help="cut documents to N tokens (%(default)s)"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count of at least 1")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a count")
    return int(text)


def _amount(text: str) -> int | float:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a fraction such as 0.1 nor a count such as 100"
        ) from None


def _sites(text: str) -> tuple[str, ...]:
    try:
        return check_sites(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _named(text: str) -> tuple[str, str]:
    """NAME=FILE; the name is to name a file too."""
    name, found, path = text.partition("=")
    if not found or not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=FILE")
    if name.startswith(".") or set(name) & set("/\\:") or not name.isprintable():
        raise argparse.ArgumentTypeError(f"{name!r} cannot name a file: give a code such as fr")
    return name, path


def _demo(arguments: argparse.Namespace) -> None:
    demo.run(arguments.out, arguments.documents, arguments.heldout, arguments.seed)


def _detect(arguments: argparse.Namespace) -> None:
    from pymultiling.commands import detect

    _refuse_twice(arguments, "corpus")
    detect.run(arguments, _rule(arguments))


def _ablate(arguments: argparse.Namespace) -> None:
    from pymultiling.commands import ablate

    _refuse_twice(arguments, "texts")
    ablate.run(arguments)


def _mwork(arguments: argparse.Namespace) -> None:
    from pymultiling.commands import mwork

    for option in ("text", "xcopa", "xcsqa", "xlsum"):
        _refuse_twice(arguments, option)
    given = [name for name in ("understanding", "generation") if getattr(arguments, name) is not None]
    if arguments.search and given:
        arguments.parser.error(f"argument --search: not allowed with --{given[0]}")
    if arguments.demo:
        others = [name for name in ("model", "neurons", *MWORK_TASKS) if getattr(arguments, name) is not None]
        if others:
            arguments.parser.error(f"argument --demo: not allowed with --{others[0]}")
        arguments.search = arguments.search or (None if len(given) == 2 else "fr")
    else:
        _require(arguments, ("model", "neurons"))
        if all(getattr(arguments, name) is None for name in MWORK_TASKS):
            arguments.parser.error(f"no task is given: looked for one of --{', --'.join(MWORK_TASKS)}")
        for option, other in (("mgsm", "exemplars"), ("xquad", "contexts")):
            if getattr(arguments, option):
                _require(arguments, (other,), f"with --{option} ")
        if arguments.search is None:
            _require(arguments, ("understanding", "generation"), "without --search ")
    mwork.run(arguments)


def _require(arguments: argparse.Namespace, options: tuple[str, ...], when: str = "") -> None:
    for option in options:
        if getattr(arguments, option) is None:
            arguments.parser.error(f"{when}--{option} is required")


def _doctor(arguments: argparse.Namespace) -> None:
    from pymultiling import doctor

    doctor.run(arguments.model, arguments.revision)


def _refuse_twice(arguments: argparse.Namespace, option: str) -> None:
    names = [name for name, _ in getattr(arguments, option) or ()]
    for name in names:
        if names.count(name) > 1:
            arguments.parser.error(f"argument --{option}: {name!r} is given more than once")


def _rule(arguments: argparse.Namespace):
    from pymultiling.selection import Threshold, TopK

    top = {name: getattr(arguments, name) for name in ("ffn", "attention", "share") if hasattr(arguments, name)}
    if arguments.threshold is None:
        try:
            return TopK(**top)
        except ValueError as error:
            arguments.parser.error(str(error))
    if top:
        arguments.parser.error(f"argument --threshold: not allowed with --{next(iter(top))}")
    return Threshold(arguments.threshold)
