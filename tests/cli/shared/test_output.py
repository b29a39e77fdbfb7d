"""What a command prints: escapes instead of control characters, and no complaint when the reader has had enough."""

import os
import subprocess
import sys

import pytest

import pymultiling as pml
from pymultiling.errors import printable
from tests.support.command_line import run

RED = "\x1b[31m"


@pytest.mark.parametrize("words", [["doctor"], ["--help"], ["--version"], ["detect", "--help"]])
def test_an_output_that_its_reader_closes_is_no_error(words):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pymultiling", *words], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    "text, expected",
    [
        (RED, "\\x1b[31m"),
        ("\x9b31m \x07\x7f\r", "\\x9b31m \\x07\\x7f\\r"),
        ("a\u202eb\u2066\u2028", "a\\u202eb\\u2066\\u2028"),
        ("\ud800\udc80", "\\ud800\\udc80"),
        ("line\n\ttab", "line\n\ttab"),
        ("é नी\u200d ش\u200c 你\u3000好 \\x1b", "é नी\u200d ش\u200c 你\u3000好 \\x1b"),
    ],
)
def test_printable_escapes_what_a_terminal_obeys_and_nothing_else(text, expected):
    assert printable(text) == expected == printable(expected)


def test_names_of_files_and_models_are_printed_escaped(tmp_path, capsys):
    sets = tmp_path / "sets"
    sets.mkdir()
    (sets / f"{RED}.safetensors").write_bytes(b"no set")
    texts = tmp_path / "fr.txt"
    texts.write_text("w1 w2\n")
    arguments = ["--neurons", sets, "--texts", f"fr={texts}", "--out", tmp_path / "out"]
    assert run("ablate", "--model", f"{RED}model", *arguments) == 1
    assert run("doctor", "--model", tmp_path / f"{RED}model") == 1
    assert run("ablate", "--model", "m", f"--{RED}", *arguments) == 2
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert printed.out.count("\\x1b[31mmodel") == 1 and printed.err.count("\\x1b[31m") >= 3


def test_exceptions_escape_what_they_quote():
    for error in (pml.CheckpointError, pml.CorpusError, pml.HubError, pml.UnsupportedModel, pml.NonFiniteActivations):
        assert str(error(f"a {RED}b")) == "a \\x1b[31mb"
