"""The program `pymultiling`: finds the commands, runs one of them, and turns every error into one line of text."""

from __future__ import annotations

import argparse
import pkgutil
import runpy
import sys
import traceback
import warnings
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from types import ModuleType

from pymultiling import __version__
from pymultiling.cli.shared.command import Group, Parser
from pymultiling.errors import EXPECTED_ERRORS, error_text, is_out_of_memory, type_and_text

DONE, FAILED, INTERRUPTED = 0, 1, 130  # argparse itself exits with 2 for wrong arguments


def main(argv: list[str] | None = None) -> int:
    """Runs a command line.

    Args:
        argv: the words after the program's name; None: those of sys.argv.

    Returns:
        The exit status.
    """
    arguments = make_parser().parse_args(argv)

    def print_warning(message: Warning | str, *_args: object, **_options: object) -> None:
        print(f"pymultiling {arguments.command}: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = print_warning
        try:
            if getattr(arguments, "families", None):
                _run_families_file(arguments.families)
            with _verification(arguments):
                arguments.run(arguments)
            return DONE
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the user sees one line for every error
            if arguments.debug:
                traceback.print_exc()
            message = _error_message(error)
            # After an interrupt, or when a full disk has space again, the same command succeeds. Before other errors go
            # away something has to be changed, which their messages say.
            if isinstance(error, (KeyboardInterrupt, OSError)) and getattr(arguments, "checkpoint", None):
                message += f"; run the same command again to continue from {arguments.checkpoint}"
            print(f"pymultiling {arguments.command}: {message}", file=sys.stderr)
            return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED


def _verification(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    """Returns a context in which models are verified, unless --no-verify was given. torch is imported only then."""
    if not getattr(arguments, "no_verify", False):
        return nullcontext()
    from pymultiling.probes.verification.entry import unverified

    return unverified()


def make_parser() -> Parser:
    """Returns the parser with all commands."""
    modules = command_modules()
    parser = Parser(
        prog="pymultiling",
        description="Finds the neurons that a language model uses for a language, and measures what happens without "
        "them.",
        epilog=_command_list(modules),
    )
    parser.add_argument(
        "--version", action="version", version=f"pymultiling {__version__}", help="print the version and exit"
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", help="one of the commands listed below"
    )
    for module in modules:
        module.add(commands)
    return parser


def command_modules() -> list[ModuleType]:
    """Returns the command modules, sorted by group and then by name."""
    package = __name__.rpartition(".shared.")[0]
    files = pkgutil.iter_modules([str(Path(__file__).parents[1])])
    modules = [import_module(f"{package}.{file.name}") for file in files if not file.ispkg]
    groups = list(Group)
    return sorted(modules, key=lambda module: (groups.index(module.COMMAND.group), module.COMMAND.name))


def _command_list(modules: list[ModuleType]) -> str:
    lines: list[str] = []
    for group in Group:
        commands = [module.COMMAND for module in modules if module.COMMAND.group is group]
        lines += [f"{group.value}:", *(f"  {command.name:9} {command.summary}" for command in commands), ""]
    return "\n".join([*lines, "pymultiling COMMAND --help explains a command and its options"])


def _run_families_file(path: str) -> None:
    try:
        runpy.run_path(path)
    except Exception as error:
        raise ValueError(f"--families {path}: {type_and_text(error)}; correct this Python file") from error


def _error_message(error: BaseException) -> str:
    message = " ".join(error_text(error).split())
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; no results were written"
    if isinstance(error, OSError):
        return f"{error.filename or 'a file, perhaps in --out,'} cannot be read or written: {error.strerror or message}"
    if is_out_of_memory(error):
        return "out of memory: reduce --batch-tokens (for tune also --batch) or --max-length, or use --dtype bfloat16"
    if isinstance(error, EXPECTED_ERRORS):
        return message
    return f"unexpected {type_and_text(error)}; run the command again with --debug and report the output"
