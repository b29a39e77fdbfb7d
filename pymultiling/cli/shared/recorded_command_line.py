"""The command line of a run for run.json: with all defaults written out, so that it can be typed again."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from pymultiling.cli.shared.argument_types import code_and_name, name_and_path
from pymultiling.results.run import RECORD_FILE, versions

_logger = logging.getLogger(__name__)


def words_by_argument(parser: argparse.ArgumentParser, values: Mapping[str, object]) -> dict[str, list[str]]:
    """Returns {argument: the words to type for its value}, without the arguments that need no words."""
    actions = {action.dest: action for action in parser._actions}
    words_by_name = {name: _words(actions[name], value) for name, value in values.items()}
    return {name: words for name, words in words_by_name.items() if words}


def with_recorded_words(words: list[str], refuse: Callable[[str], object]) -> list[str]:
    """Returns a command line with the words of a run in place of --config FILE.

    Args:
        words: the words after the program's name: --config FILE, before or after the command, and options. FILE is a
            run.json, or the folder that has one.
        refuse: is called with a message if the run cannot be repeated; it does not return.
    """
    place = next((index for index, word in enumerate(words) if word.partition("=")[0] == "--config"), None)
    if place is None:
        return words
    option, _, path = words[place].partition("=")
    rest = words[place + 1 :] if path else words[place + 2 :]
    path = path or "".join(words[place + 1 : place + 2])
    given = [*words[:place], *rest]
    file = Path(path) / RECORD_FILE if Path(path).is_dir() else Path(path)
    try:
        record = json.loads(file.read_text("utf-8"))
        command, recorded = record["command"], [word for words in record["command_line"].values() for word in words]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        refuse(
            f"argument {option}: {path or 'nothing'} is no run.json with a command line: give that of an earlier run"
        )
        return words
    if given and not given[0].startswith("-") and given.pop(0) != command:
        refuse(f"argument {option}: {path} is of the command {command}: give that command, or none")
    for package, version in versions().items():
        if record.get("versions", {}).get(package, version) != version:
            _logger.warning(
                "%s was written with %s %s, now %s runs", path, package, record["versions"][package], version
            )
    return [command, *recorded, *given]


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
