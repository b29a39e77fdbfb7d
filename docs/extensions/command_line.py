"""The directive `commands`: the reference of the command line, from the parsers of the commands.

Every option becomes a `.. option::`, which other pages can link to.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from pymultiling.cli.shared.command import Group
from pymultiling.cli.shared.command_line import command_modules, make_parser

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def escaped(text: str) -> str:
    """Returns a text in which no character is markup."""
    return re.sub(r"[\\*|_`<>:]", r"\\\g<0>", text)


def usage(parser: argparse.ArgumentParser) -> str:
    """Returns the usage of a command. Its width does not depend on the terminal."""
    formatter = argparse.HelpFormatter(parser.prog, width=80)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, "")
    return formatter.format_help()


def signature(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Returns an argument as `--help` has it, such as "--corpus LANGUAGE=FILE" or "-h, --help"."""
    return argparse.HelpFormatter(parser.prog)._format_action_invocation(action)


def arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yields the usage of a command and its arguments, in the groups and the order of `--help`."""
    yield from (".. code-block:: text", "", *(f"   {line}" for line in usage(parser).splitlines()), "")
    for group in parser._action_groups:
        if group.description:
            yield from (escaped(group.description), "")
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction):
                continue
            assert action.help, f"{parser.prog}: {action.dest} has no help"
            text = escaped(parser._get_formatter()._expand_help(action))
            required = " (required)" if action.required and action.option_strings else ""
            yield from (f".. option:: {signature(parser, action)}", "", f"   {text}{required}", "")


def reference() -> Iterator[str]:
    """Yields the lines of the whole reference, in reStructuredText."""
    parser = make_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    yield from (".. program:: pymultiling", "", *arguments(parser))
    for group in Group:
        title = group.value.capitalize()
        yield from (title, "-" * len(title), "")
        for command in (module.COMMAND for module in command_modules() if module.COMMAND.group is group):
            yield from (command.name, "~" * len(command.name), "", f".. program:: pymultiling {command.name}", "")
            yield from (escaped(command.summary[0].upper() + command.summary[1:] + "."), "")
            yield from arguments(commands.choices[command.name])
            yield from ("Example:", "", ".. code-block:: sh", "", f"   {command.example}", "")


class Commands(SphinxDirective):
    """`.. commands::` stands for the reference of all commands."""

    def run(self) -> list[nodes.Node]:
        """Parses the reference as a part of the page."""
        return self.parse_text_to_nodes("\n".join(reference()), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
