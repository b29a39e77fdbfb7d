"""Texts from standard input: the file "-" of an option NAME=FILE."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pymultiling.cli.shared.options import texts_of

if TYPE_CHECKING:
    from pymultiling.data.corpus_types import Corpus

STDIN = "-"


def with_stdin(arguments: Namespace, files: Mapping[str, str]) -> dict[str, Corpus]:
    """Returns {name: corpus}, in which the lines of stdin replace the file "-". They are read once, as they come.

    Exits with a message if stdin is to be read twice, or by several processes.
    """
    from pymultiling.data.text_lines import text_lines

    encoding: str | None = arguments.encoding
    names = [name for name, path in files.items() if path == STDIN]
    if len(names) > 1:
        arguments.parser.error(f"{' and '.join(names)} are both to be read from stdin, which can be read once")
    if names and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        arguments.parser.error(
            f"{names[0]} is to be read from stdin, which several processes cannot share: give a file"
        )
    stdin = text_lines(sys.stdin.buffer, "stdin.txt", "stdin", encoding=encoding) if names else ()
    return {name: stdin if files[name] == STDIN else texts for name, texts in texts_of(arguments, files).items()}
