"""The command line: every module of this package is a command of its name.

A command has COMMAND (`shared.command.Command`), `add(commands)` with its arguments, and `run(arguments)` with its work. What is
heavy is imported when it runs: importing this package and all commands, and --help, load neither torch nor transformers.
"""

from pymultiling.cli.shared.command_line import main

__all__ = ["main"]
