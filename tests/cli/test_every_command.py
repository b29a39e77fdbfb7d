"""What holds for every command. The tests find the commands in the same way as the command line."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import pymultiling as pml
from pymultiling.cli.shared.command_line import command_modules, make_parser
from tests.support.command_line import run

MODULES = {module.__name__.rpartition(".")[2]: module for module in command_modules()}
HEAVY = ("torch", "transformers", "pandas", "numpy", "matplotlib", "huggingface_hub")
each_command = pytest.mark.parametrize("name", MODULES)


@each_command
def test_describes_itself_in_all_fields(name):
    command = MODULES[name].COMMAND
    assert command.name == name
    for text in (command.summary, command.title, command.about):
        assert text and text == text.strip()
    assert command.about.endswith(".") and not command.title.endswith(".")
    assert all(re.fullmatch(r"\d{4}\.\d{5}", number) and use for number, use in command.papers.items())


@each_command
def test_its_example_can_be_parsed(name):
    command = MODULES[name].COMMAND
    words = shlex.split(command.example)
    assert words[:2] == ["pymultiling", name]
    assert make_parser().parse_args(words[1:]).declared is command


@each_command
def test_arguments_that_are_published_whole_exist(name):
    command = MODULES[name].COMMAND
    parser = make_parser().parse_args(shlex.split(command.example)[1:]).parser
    options = {action.dest for action in parser._actions}
    assert set(command.whole) <= options


@each_command
def test_help_ends_with_the_example(name, capsys):
    command = MODULES[name].COMMAND
    assert run(name, "--help") == 0
    printed = capsys.readouterr().out
    assert printed.endswith(f"\n\nexample:\n  {command.example}\n")
    assert command.summary in " ".join(printed.split())


@each_command
def test_help_of_the_model_names_files_of_llama_cpp(name, capsys):
    """`export` reads tensors of a folder, and takes no such file."""
    assert run(name, "--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    takes_models = "--model " in printed and name != "export"
    assert ("a file of llama.cpp (.gguf)" in printed) == takes_models


def test_help_lists_all_commands_by_group(capsys):
    assert run("--help") == 0
    lines = capsys.readouterr().out.splitlines()
    words = [line.split() for line in lines]
    numbers = []
    for module in MODULES.values():
        heading = lines.index(f"{module.COMMAND.group.value}:")
        number = words.index([module.COMMAND.name, *module.COMMAND.summary.split()])
        assert number > heading
        numbers.append(number)
    assert numbers == sorted(numbers)


@each_command
def test_has_a_test_file(name):
    assert (Path(__file__).parent / f"test_{name}_command.py").is_file()


def test_help_and_version_load_nothing_heavy():
    """Tested in a fresh interpreter, after importing the package and all commands."""
    program = f"""
import sys
import pymultiling
from pymultiling.cli import main
for arguments in (["--help"], ["--version"], *([name, "--help"] for name in {list(MODULES)})):
    try:
        main(arguments)
    except SystemExit as error:
        assert error.code == 0
    print("\\n", arguments, [name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = re.findall(r"^ (\[.*\]) (\[.*\])$", done.stdout, re.MULTILINE)
    assert len(loaded) == 2 + len(MODULES)
    assert [arguments for arguments, heavy in loaded if heavy != "[]"] == []
    assert f"pymultiling {pml.__version__}" in done.stdout
