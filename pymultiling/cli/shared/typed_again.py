"""A command line as it can be typed again, with every default."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from pymultiling.cli.shared.argument_types import as_typed


def words_by_argument(parser: argparse.ArgumentParser, values: Mapping[str, object]) -> dict[str, list[str]]:
    """{argument: the words that give it these values}, of the arguments that have any."""
    actions = {action.dest: action for action in parser._actions}
    words = {name: _words(actions[name], value) for name, value in values.items()}
    return {name: of_argument for name, of_argument in words.items() if of_argument}


def _words(action: argparse.Action, value: object) -> list[str]:
    if value is None or value is False or value == "":
        return []
    option = action.option_strings[-1:]
    if action.nargs == 0:
        return option
    given = value if isinstance(action, argparse._AppendAction) else [value]
    return [word for one in given for word in (*option, as_typed(one, action.type))]
