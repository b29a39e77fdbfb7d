"""Turns the package's docstrings, which are plain text with the sections of Google's style, into reStructuredText.

* `name` in backticks becomes a link if it is a public name, and code otherwise.
* A paragraph that is indented deeper than the text around it is a formula or code, and keeps its line breaks.
* All other characters stand for themselves: |up|, 2 * width, name_.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sphinx.ext.napoleon import Config, GoogleDocstring

import pymultiling

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MODULES = ("ops", "tasks", "pmi", "demo_model")
SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Warns|Source|Example|Note):")
NAMED_ENTRIES = ("Args", "Attributes", "Raises", "Warns")
RESULTS = ("Returns:", "Yields:")  # napoleon would read the text before a colon as a type
CODE = re.compile(r"`([^`]+)`")
# What begins a line and is no text: the bullet of a list, or the name of an argument or an error.
KEPT = re.compile(r"\* |    \*{0,2}\w+:|")
MARKUP = re.compile(r"[\\*|_]")


def public_names() -> set[str]:
    """Returns the names that the reference documents, as users write them, without pymultiling in front."""
    names = set(pymultiling.__all__)
    for module in MODULES:
        names |= {f"{module}.{name}" for name in getattr(pymultiling, module).__all__}
    return names


def link_or_code(text: str, names: set[str]) -> str:
    """Returns the role for a text in backticks, such as pml.ops.gated_ffn, TopK or a file's name."""
    target = text.removeprefix("pml.").removeprefix("pymultiling.")
    owner, _, method = target.rpartition(".")
    if target in {*names, *MODULES} or (owner in names and hasattr(getattr(pymultiling, owner, None), method)):
        return f":py:obj:`{text} <pymultiling.{target}>`"
    return f"``{text}``"


def escaped(text: str, names: set[str]) -> str:
    """Returns a line in which only the text in backticks is markup."""
    parts = CODE.split(text)  # text, code, text, ..., text
    return "".join(
        link_or_code(part, names) if index % 2 else MARKUP.sub(r"\\\g<0>", part) for index, part in enumerate(parts)
    )


def indent_of(line: str) -> int:
    """Returns the number of spaces that a line begins with."""
    return len(line) - len(line.lstrip())


def paragraphs(lines: list[str]) -> Iterator[list[str]]:
    """Yields the runs of lines without a blank line in between."""
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield paragraph
            paragraph = []


def as_markup(lines: list[str]) -> list[str]:
    """Returns the lines of a docstring with markup in place of its plain text. The sections stay."""
    names, result, depth = public_names(), [], 0
    for paragraph in paragraphs(lines):
        if indent_of(paragraph[0]) == 0:
            depth = 0
        if indent_of(paragraph[0]) > depth:  # deeper than text: a formula
            result += [f"{' ' * depth}::", "", *paragraph, ""]
            continue
        field = ""
        for line in paragraph:
            if indent_of(line) == 0 and (section := SECTION.match(line)):
                depth = 8 if section[1] in NAMED_ENTRIES else 4
                if line in RESULTS:
                    field = f":{line.lower()} "
                    continue
            prefix = KEPT.match(line)[0]
            text = escaped(line.removeprefix(prefix), names)
            result.append(field + text.lstrip() if field else prefix + text)
            field = ""
        result.append("")
    return result


def process(_app: Sphinx, kind: str, _name: str, _documented: object, _options: object, lines: list[str]) -> None:
    """Replaces the lines of a docstring."""
    # Napoleon reads no sections in the docstring of a property.
    what = "method" if kind == "property" else kind
    lines[:] = GoogleDocstring(as_markup(lines), Config(napoleon_use_ivar=True), what=what).lines()


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the extension."""
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True}
