"""Runs the command line in this process, and checks what it prints and writes."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from pymultiling.cli import main

SMALL_BATCHES = ["--max-length", "16", "--batch-tokens", "64"]


def run(*arguments: object) -> int:
    """Runs a command line in this process and returns its exit status."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as error:
        return error.code


def repeat(option: str, files: Mapping[str, object]) -> list[str]:
    """Returns the words of an option that is given once for each name: option NAME=FILE ..."""
    return [word for name, path in files.items() for word in (option, f"{name}={path}")]


def detect(model: object, corpora: Mapping[str, object], out: object, *options: object) -> int:
    """Runs `detect` with a short document for each text and returns its exit status. corpora: {language: file}."""
    corpus_options = repeat("--corpus", corpora)
    return run("detect", "--model", model, *corpus_options, "--out", out, *SMALL_BATCHES, "--pack", "none", *options)


def assert_error_line(capsys: pytest.CaptureFixture[str], *texts: object) -> str:
    """Asserts that the last line on stderr is an error message with these texts, that there is no traceback, and that
    the error was expected. Returns the line.
    """
    printed = capsys.readouterr().err
    last = printed.strip().splitlines()[-1]
    assert last.startswith("pymultiling") and "Traceback" not in printed and "report the output" not in last, printed
    for text in texts:
        assert str(text) in last, last
    return last


def assert_folder_holds(folder: Path, *names: str) -> None:
    """Asserts that a folder holds files and folders of exactly these names."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
