"""The command line run in this process, and what it says."""

from pathlib import Path

from pymultiling.cli import main

QUICK = ["--max-length", "16", "--batch-tokens", "64"]


def run(*arguments) -> int:
    """Exit status of the command line."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


def detect(model, corpora, out, *more) -> int:
    given = [argument for name, path in corpora.items() for argument in ("--corpus", f"{name}={path}")]
    return run("detect", "--model", model, *given, "--out", out, *QUICK, *more)


def assert_one_sentence(capsys, *words) -> str:
    """What was printed on stderr last is one line, without a traceback, with these words."""
    text = capsys.readouterr().err
    last = text.strip().splitlines()[-1]
    assert last.startswith("pymultiling") and "Traceback" not in text and "should not happen" not in last, text
    for word in words:
        assert str(word) in last, last
    return last


def assert_nothing_written(folder: Path, *but) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(but)
