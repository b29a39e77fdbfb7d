"""The command line as a whole: its commands are found, one is run, and what goes wrong becomes a sentence."""

from __future__ import annotations

import argparse
import pkgutil
import runpy
import sys
import traceback
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType

from pymultiling import __version__
from pymultiling.cli.shared.command import Group, Parser
from pymultiling.errors import SENTENCES, is_out_of_memory

DONE, FAILED, INTERRUPTED = 0, 1, 130  # argparse exits with 2 for wrong arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = make_parser().parse_args(argv)
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


def make_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    modules = command_modules()
    parser = Parser(
        prog="pymultiling",
        description="Which neurons of a language model a language uses, and what happens without them.",
        epilog=_listing(modules),
    )
    parser.add_argument("--version", action="version", version=f"pymultiling {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", help="one of those below")
    for module in modules:
        module.add(commands)
    return parser


def command_modules() -> list[ModuleType]:
    """The modules of `cli` that are no packages, in the order of their groups, and of their names within one."""
    package = __name__.rpartition(".shared.")[0]
    files = pkgutil.iter_modules([str(Path(__file__).parents[1])])
    modules = [import_module(f"{package}.{file.name}") for file in files if not file.ispkg]
    groups = list(Group)
    return sorted(modules, key=lambda module: (groups.index(module.COMMAND.group), module.COMMAND.name))


def _listing(modules: list[ModuleType]) -> str:
    lines: list[str] = []
    for group in Group:
        of_group = [module.COMMAND for module in modules if module.COMMAND.group is group]
        lines += [f"{group.value}:", *(f"  {command.name:9} {command.summary}" for command in of_group), ""]
    return "\n".join([*lines, "pymultiling COMMAND --help says more of each"])


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
    if is_out_of_memory(error):
        return (
            "out of memory: give a smaller --batch-tokens (for tune also --batch) or --max-length, or --dtype bfloat16"
        )
    if isinstance(error, SENTENCES):
        return message
    return f"{type(error).__name__}: {message}; this should not happen, run it again with --debug and report what it prints"
