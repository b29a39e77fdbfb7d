"""The command line. Each module of this package is the command of the same name.

A command module has three parts: COMMAND (a `shared.command.Command`), `add(commands)`, which declares the arguments,
and `run(arguments)`, which does the work. Heavy packages are imported only in `run`: importing the commands and
`--help` load neither torch nor transformers.
"""

from pymultiling.cli.shared.command_line import main

__all__ = ["main"]
