"""The site that `make docs` builds: every page, every public name and every option is in it."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pymultiling as pml
from pymultiling.cli.shared.command_line import make_parser
from tests.public_face.public_names import MODULES, public_objects
from tests.support.documentation import ROOT

DOCS = ROOT / "docs"
ENTRY = re.compile(r"^\.\. auto(?:function|class|exception):: pymultiling\.(\S+)$", re.MULTILINE)
CONSTANT = re.compile(r"^\.\. py:data:: (\w+)\n   :module: (pymultiling\S*)\n(?:   :value: (.*)\n)?", re.MULTILINE)
# Documented names that users meet without importing them, and those of modules that `import pymultiling` leaves out.
FURTHER = {"data.corpora.CorpusReport", "errors.ProcessLost", "lm_eval.Deactivated", "triton_kernels.interpreted"}


def reference() -> str:
    """Returns the text of all pages of the Python reference."""
    return "\n".join(page.read_text("utf-8") for page in sorted((DOCS / "api").glob("*.rst")))


def constants() -> dict[str, str]:
    """Returns {name: value as the reference has it, or ""} of the constants in the reference."""
    return {
        f"{module}.{name}".removeprefix("pymultiling."): value for name, module, value in CONSTANT.findall(reference())
    }


def public_names() -> set[str]:
    """Returns the public names of all modules, as in pymultiling.NAME."""
    return {name.removeprefix("pml.") for name in public_objects()}


def test_the_reference_has_one_entry_for_every_public_name():
    entries = [*ENTRY.findall(reference()), *constants()]
    assert len(entries) == len(set(entries))
    assert set(entries) == public_names() | FURTHER


def test_the_reference_has_a_page_for_every_public_module():
    modules = set(re.findall(r"^\.\. py:module:: (\S+)$", reference(), re.MULTILINE))
    assert modules == {module.__name__ for module in (pml, pml.triton_kernels)} | {"pymultiling.lm_eval"} | {
        f"pymultiling.{name.removeprefix('pml.')}" for name in MODULES if name != "pml"
    }


def test_constants_have_their_values_in_the_reference():
    values = constants()
    assert values.pop("__version__") == ""
    for name, value in values.items():
        assert value == repr(public_objects()[f"pml.{name}"])


def test_every_page_is_in_a_table_of_contents():
    listed = {
        (page.parent / entry).resolve()
        for page in DOCS.rglob("*.rst")
        for toctree in page.read_text("utf-8").split(".. toctree::")[1:]
        for entry in re.findall(r"^   (?:.* <)?([\w./-]+)>?$", toctree, re.MULTILINE)
    }
    pages = {path.with_suffix("") for path in DOCS.rglob("*") if path.suffix in (".md", ".rst")}
    assert pages - listed == {DOCS / "index"}
    assert {ROOT / name for name in ("README", "CONTRIBUTING", "CHANGELOG")} <= listed


def options() -> set[str]:
    """Returns the options of all commands as Sphinx names them, such as "pymultiling-detect.--corpus"."""
    parser = make_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {
        f"{command.prog.replace(' ', '-')}.{option}"
        for command in (parser, *commands.choices.values())
        for option in command._option_string_actions
    }


def test_the_site_builds_without_a_warning_and_has_every_name_and_option(tmp_path):
    """A link to a page, heading, name or file that does not exist is a warning.

    The notebook docs/tutorial.md runs too. (80 seconds of processor time.)
    """
    for package in ("sphinx", "myst_parser", "myst_nb", "furo"):
        pytest.importorskip(package, reason="needs `make docs`, or `pip install 'pymultiling[docs]'`")
    from sphinx.util.inventory import InventoryFile

    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", ".", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    inventory = InventoryFile.loads((tmp_path / "objects.inv").read_bytes(), uri="").data
    names = {name for kind, entries in inventory.items() if kind.startswith("py:") for name in entries}
    assert {f"pymultiling.{name}" for name in public_names() | FURTHER} <= names
    assert {f"pymultiling.{name}" for name in ("NeuronSet.random_like", "Detection.select")} <= names
    assert options() <= set(inventory["std:cmdoption"])
    assert Path(tmp_path / "index.html").exists()
