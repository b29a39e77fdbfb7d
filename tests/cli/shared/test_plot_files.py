"""The option --format: which commands have it, and which files they write with it."""

import ast
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from pymultiling.cli.shared.command_line import command_modules
from pymultiling.cli.shared.plot_files import FORMATS, plots_as, save_plot
from pymultiling.results.plots import figures
from tests.cli.test_classify_command import save_counts
from tests.support.command_line import run

MODULES = {module.__name__.rpartition(".")[2]: Path(module.__file__) for module in command_modules()}
BEGINNINGS = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


def names_of(path: Path) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Name)}


def test_the_commands_that_draw_have_the_option():
    """A command draws if its module, or for `reproduce` that of a paper, calls save_plot or a function that does."""
    folder = MODULES["show"].parent
    writers = {"save_plot"} | {
        function.name
        for path in (folder / "shared").glob("*_files.py")
        for function in ast.parse(path.read_text("utf-8")).body
        if isinstance(function, ast.FunctionDef)
        and "save_plot" in {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    }
    assert {"write_detection", "write_ablation", "write_counts", "write_ternary"} < writers
    for module in command_modules():
        path = MODULES[module.COMMAND.name]
        files = [path, *((folder / "reproduction").glob("*.py") if path.stem == "reproduce" else ())]
        assert module.COMMAND.draws == any(names_of(file) & writers for file in files), path.stem


def test_no_command_writes_plots_in_another_way():
    paths = [path for path in MODULES["show"].parent.rglob("*.py") if path.name != "plot_files.py"]
    assert not [path for path in paths if ".png" in path.read_text("utf-8")]


def test_the_formats_are_those_that_plots_can_be_saved_in():
    assert set(FORMATS) == set(figures.FORMATS) == set(BEGINNINGS)


@pytest.mark.parametrize("form", FORMATS)
def test_all_plots_of_a_run_have_the_format(tmp_path, form):
    save_counts(tmp_path / "counts")
    folders = "--counts", tmp_path / "counts", "--before", tmp_path / "counts", "--out", tmp_path / "out"
    assert run("classify", *folders, "--format", form) == 0
    written = {path.name for path in (tmp_path / "out").iterdir() if path.suffix[1:] in FORMATS}
    assert written == {f"ternary.{form}", f"change.{form}"}
    assert all((tmp_path / "out" / name).read_bytes().startswith(BEGINNINGS[form]) for name in written)


def test_plots_are_png_outside_the_block(tmp_path):
    with plots_as("pdf"):
        save_plot(Figure(), tmp_path, "inside")
    save_plot(Figure(), tmp_path, "outside")
    assert {path.name for path in tmp_path.iterdir()} == {"inside.pdf", "outside.png"}
