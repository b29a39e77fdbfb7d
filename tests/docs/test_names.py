"""Every file and every Python name of this repository that a page, a docstring or a comment names exists."""

import ast
import builtins
import io
import keyword
import pkgutil
import re
import tokenize
from functools import cache
from pathlib import Path

from tests.support.documentation import BLOCK, PAGES, ROOT, page_name

FOLDERS = ("benchmarks", "csrc", "docs", "pymultiling", "tests", "triton_kernels")
FILE = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./*-]*[\w*]")  # no part of a longer path
IMPORTED = re.compile(r"`((?:pymultiling|pml|pmi|benchmarks|tests|triton_kernels)(?:\.[A-Za-z_]\w*)+)(?:\([^`]*\))?`")
NAME = re.compile(r"`([A-Za-z_][\w.]*)(?:\([^`]*\))?`")
WORD = re.compile(r"[A-Za-z_]\w*")
NICKNAMES = {"pml": "pymultiling", "pmi": "pymultiling.pmi"}  # what programs in the pages import them as
RESULTS = ("pmi.png",)  # names of files that commands write
OPTIONS = ("warn_unused_ignores",)  # of tools that read the code
NATIVE = (".cpp", ".cu", ".cuh", ".h")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def find_files(*suffixes: str) -> list[Path]:
    """Returns the files of the repository's folders with these suffixes."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))]
    return [path for path in files if path.suffix in suffixes]


def split_code(path: Path) -> tuple[str, set[str]]:
    """Returns the docstrings and comments of a Python file, and all words of what is neither."""
    code = path.read_text("utf-8")
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, DOCUMENTED)]
    docstrings = [docstring for node in nodes if (docstring := ast.get_docstring(node, clean=False))]
    tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    starts = {(node.body[0].lineno, node.body[0].col_offset) for node in nodes if ast.get_docstring(node)}
    rest = [token.string for token in tokens if token.type != tokenize.COMMENT and token.start not in starts]
    return "\n".join(docstrings + comments), set(WORD.findall(" ".join(rest)))


@cache
def python_files() -> dict[str, tuple[str, set[str]]]:
    """Returns {file: what `split_code` returns}."""
    return {page_name(path): split_code(path) for path in find_files(".py", ".pyi")}


@cache
def texts() -> dict[str, str]:
    """Returns {file: what people read in it}: of Python the docstrings and comments, and otherwise all of it."""
    files = {*PAGES, ROOT / "CHANGELOG.md", ROOT / "pyproject.toml", *find_files(".md", ".rst", *NATIVE)}
    prose = {place: text for place, (text, _) in python_files().items()}
    return prose | {page_name(path): path.read_text("utf-8") for path in files}


def test_files_that_are_named_exist():
    named = {file: place for place, text in texts().items() for file in FILE.findall(text) if "NAME" not in file}
    assert len(named) > 100
    missing = {file: place for file, place in named.items() if not any(ROOT.glob(file))}
    assert not missing


def is_importable(name: str) -> bool:
    """Whether a dotted name exists, by importing what precedes it."""
    first, _, rest = name.partition(".")
    try:
        pkgutil.resolve_name(f"{NICKNAMES.get(first, first)}.{rest}")
    except (ImportError, AttributeError):
        return False
    return True


def test_names_with_their_module_exist():
    named = {name: place for place, text in texts().items() for name in IMPORTED.findall(BLOCK.sub("", text))}
    assert len(named) > 80  # 102 on 2026-12-01
    missing = {name: place for name, place in named.items() if name not in RESULTS and not is_importable(name)}
    assert not missing


def test_names_in_docstrings_and_comments_are_those_of_code():
    """A name that was changed and is still in a docstring is in no code. Names of files and folders count as code."""
    words = {word for _, words in python_files().values() for word in words}
    words |= {*dir(builtins), *keyword.kwlist, *OPTIONS}
    words |= {word for folder in FOLDERS for path in (ROOT / folder).rglob("*") for word in re.split(r"\W", path.name)}
    words |= {word for path in find_files(*NATIVE, ".js") for word in WORD.findall(path.read_text("utf-8"))}
    named = {(place, name) for place, (text, _) in python_files().items() for name in NAME.findall(text)}
    assert not {(place, name) for place, name in named if not set(name.strip(".").split(".")) <= words}
