"""The command line of a run for run.json: with all defaults written out, so that it can be typed again."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from pymultiling.cli.shared.argument_types import code_and_name, name_and_path


def words_by_argument(parser: argparse.ArgumentParser, values: Mapping[str, object]) -> dict[str, list[str]]:
    """Returns {argument: the words to type for its value}, without the arguments that need no words."""
    actions = {action.dest: action for action in parser._actions}
    words_by_name = {name: _words(actions[name], value) for name, value in values.items()}
    return {name: words for name, words in words_by_name.items() if words}


def _words(action: argparse.Action, value: object) -> list[str]:
    if value is None or value is False or value == "":
        return []
    option = list(action.option_strings[-1:])
    if action.nargs == 0:
        return option
    items = value if isinstance(action, argparse._AppendAction) and isinstance(value, list) else [value]
    separator = "=" if action.type in (name_and_path, code_and_name) else ","
    words: list[str] = []
    for item in items:
        words += [*option, separator.join(item) if isinstance(item, (list, tuple)) else str(item)]
    return words
