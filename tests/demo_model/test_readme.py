"""The README of the demo model has the lines of its report, and its commands and names exist."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

from pymultiling import demo_model

FOLDER = Path(demo_model.__file__).parent


def fixed_lines() -> list[str]:
    """Returns the lines without placeholders of the report's text, the f-string of report.py with the most parts."""
    tree = ast.parse((FOLDER / "training" / "report.py").read_text("utf-8"))
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    longest = max(texts, key=lambda node: len(node.values))
    parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in longest.values]
    return [line for line in "".join(parts).splitlines() if "\0" not in line]


def test_the_readme_has_the_lines_of_the_report():
    lines = (FOLDER / "README.md").read_text("utf-8").splitlines()
    fixed = fixed_lines()
    assert len(fixed) > 50 and fixed[0] == lines[0]
    assert [line for line in fixed if line not in lines] == []


def test_the_commands_and_names_in_the_readme_exist():
    text = (FOLDER / "README.md").read_text("utf-8")
    modules = set(re.findall(r"python -m ([\w.]+)", text))
    assert modules == {"pymultiling.demo_model.training.train"}
    assert all(find_spec(module) is not None for module in modules)
    names = set(re.findall(r"demo_model\.(\w+)\(", text))
    assert names == {"load", "corpora", "heldout"} and names < set(demo_model.__all__)
