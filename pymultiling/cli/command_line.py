"""The command line. Importing this module, and --help, load neither torch nor transformers."""

from __future__ import annotations

import argparse
import runpy
import sys
import traceback
import warnings
from typing import NoReturn

from pymultiling import __version__
from pymultiling.arguments import ablate, classify, count, demo, detect, doctor, ilo, lens, mwork, pmi, pull, push, tune
from pymultiling.errors import SENTENCES, out_of_memory

COMMANDS = (demo, detect, ablate, mwork, count, classify, pmi, ilo, lens, tune, push, pull, doctor)
DONE, FAILED, INTERRUPTED = 0, 1, 130  # argparse exits with 2 for wrong arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"pymultiling {arguments.command}: {message}", file=sys.stderr)
        try:
            if getattr(arguments, "families", None):
                _run(arguments.families)
            arguments.run(arguments)
            return DONE
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, it becomes a sentence
            if arguments.debug:
                traceback.print_exc()
            sentence = _sentence(error)
            if isinstance(error, (KeyboardInterrupt, OSError)) and getattr(arguments, "checkpoint", None):
                sentence += f"; the same command goes on from {arguments.checkpoint}"
            print(f"pymultiling {arguments.command}: {sentence}", file=sys.stderr)
            return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED


def _run(path: str) -> None:
    """A file of the user's that registers families."""
    try:
        runpy.run_path(path)
    except Exception as error:
        raise ValueError(f"--families {path}: {type(error).__name__}: {error}") from error


def _sentence(error: BaseException) -> str:
    message = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; no results were written"
    if isinstance(error, OSError):
        return f"{error.filename or 'a file, perhaps of --out,'} cannot be read or written: {error.strerror or message}"
    if out_of_memory(error):
        return (
            "out of memory: give a smaller --batch-tokens (for tune also --batch) or --max-length, or --dtype bfloat16"
        )
    if isinstance(error, SENTENCES):
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
    for arguments in COMMANDS:
        arguments.add(commands)
    return parser
