"""The program `pymultiling`: finds the commands, runs one of them, and turns every error into one line of text."""

from __future__ import annotations

import argparse
import logging
import pkgutil
import runpy
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from types import ModuleType

from pymultiling import __version__
from pymultiling.cli.shared.command import Group, Parser
from pymultiling.cli.shared.completion import add_completion
from pymultiling.cli.shared.default_checkpoint import remove_empty_checkpoint
from pymultiling.cli.shared.output import OutputClosed, printable_output
from pymultiling.cli.shared.plot_files import plots_as
from pymultiling.cli.shared.recorded_command_line import with_recorded_words
from pymultiling.cli.shared.signals import Terminated, raise_on_signals
from pymultiling.errors import EXPECTED_ERRORS, error_text, is_out_of_memory, printable, type_and_text

# Argparse itself exits with 2 for wrong arguments. A command that a signal ends exits with 128 and the signal's number,
# and SIGPIPE, 13, stands for an output that its reader closes.
DONE, FAILED, INTERRUPTED, OUTPUT_CLOSED = 0, 1, 130, 141


def main(argv: list[str] | None = None) -> int:
    """Runs a command line.

    Args:
        argv: the words after the program's name; None: those of sys.argv.

    Returns:
        The exit status.
    """
    try:
        with printable_output():
            return _run(argv)
    except OutputClosed:
        return OUTPUT_CLOSED


def _run(argv: list[str] | None) -> int:
    arguments = parse(sys.argv[1:] if argv is None else argv)

    def print_warning(message: Warning | str, *_args: object, **_options: object) -> None:
        print(printable(f"pymultiling {arguments.command}: {message}"), file=sys.stderr)

    with warnings.catch_warnings(), _print_log(arguments):
        warnings.showwarning = print_warning
        try:
            from pymultiling.data.stored_files import shared_files  # fsspec is not needed for --help

            with raise_on_signals(), _verification(arguments), _plots(arguments), shared_files():
                if getattr(arguments, "families", None):
                    _run_families_file(arguments.families)
                arguments.run(arguments)
            return DONE
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the user sees one line for every error
            if arguments.debug:
                print(printable(traceback.format_exc()), file=sys.stderr)
            remove_empty_checkpoint(arguments)
            message = _error_message(error)
            message += _how_to_go_on(error, arguments)
            print(printable(f"pymultiling {arguments.command}: {message}"), file=sys.stderr)
            if isinstance(error, Terminated):
                return 128 + error.number
            return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED


def parse(words: list[str]) -> argparse.Namespace:
    """Parses a command line. Exits with a message if it is wrong."""
    parser = make_parser()
    arguments, unknown = parser.parse_known_args(with_recorded_words(words, parser.error))
    if unknown:  # the command's own parser knows which of its options is similar
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return arguments


@contextmanager
def _print_log(arguments: argparse.Namespace) -> Iterator[None]:
    """Inside, the messages of the logger "pymultiling" are printed on stderr, as far as --quiet and --verbose say."""
    logger, handler = logging.getLogger("pymultiling"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"pymultiling {arguments.command}: %(message)s"))
    level = logger.level
    logger.setLevel(logging.WARNING if arguments.quiet else logging.DEBUG if arguments.verbose else logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _how_to_go_on(error: BaseException, arguments: argparse.Namespace) -> str:
    """Returns what to add to the message of an error after which the same command succeeds.

    These are interrupts, and a full disk that has space again. Before other errors go away something has to be changed,
    which their messages say.
    """
    if not isinstance(error, (KeyboardInterrupt, OSError)) or not hasattr(arguments, "checkpoint"):
        return ""
    if arguments.checkpoint is None:
        return "" if isinstance(error, OSError) else "; with --checkpoint FOLDER the next run can be continued"
    if not arguments.checkpoint.exists():
        return ""
    return f"; run the same command again to continue from {arguments.checkpoint}"


def _verification(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    """Returns a context in which models are verified, unless --no-verify was given. torch is imported only then."""
    if not getattr(arguments, "no_verify", False):
        return nullcontext()
    from pymultiling.probes.verification.entry import unverified

    return unverified()


def _plots(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    return plots_as(arguments.format) if arguments.declared.draws else nullcontext()


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
    parser.add_argument(
        "--config", metavar="FILE", help="run again what FILE, the run.json of an earlier run or its folder, records"
    )
    add_completion(parser)
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
    if isinstance(error, Terminated):
        return f"ended by {error.name}; no results were written"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; no results were written"
    if isinstance(error, OSError):
        return f"{error.filename or 'a file, perhaps in --out,'} cannot be read or written: {error.strerror or message}"
    if is_out_of_memory(error):
        return "out of memory: reduce --batch-tokens (for tune also --batch) or --max-length, or use --dtype bfloat16"
    if isinstance(error, EXPECTED_ERRORS):
        return message
    return f"unexpected {type_and_text(error)}; run the command again with --debug and report the output"
