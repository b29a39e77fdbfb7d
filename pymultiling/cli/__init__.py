"""The command line: a file a command. Importing it, and --help, load neither torch nor transformers."""

from pymultiling.cli.command_line import main

__all__ = ["main"]
