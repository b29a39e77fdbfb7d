"""The code blocks and commands of the Markdown pages, and how they are run."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from pymultiling import demo_model
from pymultiling.cli import main
from pymultiling.cli.shared.command_line import make_parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

OUTCOME = "outcome: "  # begins the lines of the program below that say how a page or a command ended
BLOCK = re.compile(
    r"^(?:<!-- needs: (?P<needs>\w+) -->\n)?```(?:\{code-cell\} )?(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
INLINE_COMMAND = re.compile(r"`((?:python -m benchmarks\.[\w.]+|pymultiling [a-z_]+ -)[^`]*)`")
PARALLEL_LANGUAGES = {
    "deu_Latn": "de",
    "eng_Latn": "en",
    "fra_Latn": "fr",
    "spa_Latn": "es",
    "rus_Cyrl": "ru",
    "zho_Hans": "zh",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: the file.
        line: the line of the opening fence, from 1.
        language: "python", "sh", "text" ...
        code: the text between the fences.
        needs: what the block needs beyond an installation ("hub", "gpu", "server", "download", "checkout"); None:
            nothing.
    """

    page: Path
    line: int
    language: str
    code: str
    needs: str | None

    @property
    def place(self) -> str:
        """The page's path in the repository, and the line."""
        return f"{page_name(self.page)}:{self.line}"


def page_name(page: Path) -> str:
    """Returns the page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Returns the fenced blocks of a page, in order."""
    text = page.read_text("utf-8")
    return [
        Block(page, text.count("\n", 0, match.end("language")), match["language"], match["code"], match["needs"])
        for match in BLOCK.finditer(text)
    ]


def inline_commands(page: Path) -> Iterator[str]:
    """Yields the commands in backticks within the text of a page, each on one line."""
    text = BLOCK.sub("", page.read_text("utf-8"))
    for match in INLINE_COMMAND.finditer(text):
        yield " ".join(match[1].split())


def all_inline_commands() -> list[str]:
    """Returns the commands within the text of all pages, each once."""
    return sorted({command for page in PAGES for command in inline_commands(page)})


def write_inputs(folder: Path) -> None:
    """Writes the files that the pages name: texts of eight languages, held-out texts, and parallel sentences."""
    heldout = demo_model.heldout()
    for language, texts in demo_model.corpora().items():
        (folder / f"{language}.txt").write_text("\n".join(texts[:200]) + "\n", "utf-8")
        (folder / f"{language}.heldout.txt").write_text("\n".join(heldout[language][:60]) + "\n", "utf-8")
    columns = [heldout[language][:30] for language in PARALLEL_LANGUAGES.values()]
    records = ["\t".join(record) for record in (PARALLEL_LANGUAGES, *zip(*columns, strict=True))]
    (folder / "flores.tsv").write_text("\n".join(records) + "\n", "utf-8")


def run_python(block: Block, namespace: dict[str, object]) -> None:
    """Runs a Python block in a namespace. A traceback names the page and its lines."""
    code = "\n" * block.line + block.code
    exec(compile(code, str(block.page), "exec"), namespace)


def run_shell(block: Block) -> None:
    """Runs the commands of a block: `pymultiling` in this process, the others in processes of their own."""
    for command in block.code.replace("\\\n", " ").replace("&&", "\n").splitlines():
        words = shlex.split(command, comments=True)
        if not words:
            continue
        if words[0] == "pymultiling":
            status = main(words[1:])
        else:
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
            status = subprocess.run(words, env={**os.environ, "PATH": path}, check=False).returncode
        assert status == 0, f"{block.place}: `{command}` ended with status {status}"


def run_page(page: Path) -> str | None:
    """Runs the blocks of a page in order, in a new folder, with one namespace. Returns the traceback or None."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_inputs(Path(folder))
        try:
            for block in blocks(page):
                if block.needs is None and block.language == "python":
                    run_python(block, namespace)
                elif block.needs is None and block.language == "sh":
                    run_shell(block)
        except BaseException:  # noqa: BLE001, whatever a page raises is what the test reports
            return traceback.format_exc()
    return None


class ArgumentsAccepted(BaseException):
    """A program has parsed its arguments; it does not go on."""


def check_command(command: str) -> str | None:
    """Lets a program parse the arguments of a command without running it. Returns the traceback, or None."""
    words = [word for word in shlex.split(command) if word != "..."]
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, *arguments: object) -> None:
        parse(parser, *arguments)
        raise ArgumentsAccepted

    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse_only):
        try:
            if words[0] == "pymultiling":
                make_parser().parse_args(words[1:])
            else:
                with mock.patch.object(sys, "argv", words[2:]):
                    runpy.run_module(words[2], run_name="__main__", alter_sys=False)
        except ArgumentsAccepted:
            return None
        except BaseException:  # noqa: BLE001, whatever a program raises is what the test reports
            return traceback.format_exc()
    return f"{words[0]} has not parsed its arguments"


def print_outcome(name: str, error: str | None) -> None:
    """Prints the line that the test reads."""
    print(OUTCOME + json.dumps([name, error]), file=sys.stderr, flush=True)


if __name__ == "__main__":  # runs all pages and checks all commands in this process
    for each_page in PAGES:
        print_outcome(page_name(each_page), run_page(each_page))
    for each_command in all_inline_commands():
        print_outcome(each_command, check_command(each_command))
