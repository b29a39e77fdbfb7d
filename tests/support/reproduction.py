"""What the tests of `reproduce` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pymultiling import demo_model
from pymultiling.models import loading
from tests.support.command_line import assert_error_line
from tests.support.tiny_text import write_text


def write_corpora(folder: Path, languages: Sequence[str], heldout: int) -> Path:
    """Writes a data folder with texts, and as many short held-out texts, of the demo model's languages; no tasks."""
    (folder / "corpora").mkdir(parents=True)
    corpora, others = demo_model.corpora(), demo_model.heldout()
    for language in languages:
        short = [text for text in others[language] if len(text) < 80][:heldout]
        write_text(folder / "corpora" / f"{language}.txt.gz", corpora[language][:60])
        write_text(folder / "corpora" / f"{language}.heldout.txt", short)
    return folder


def assert_refused_before_loading(
    reproduce: Callable[[], int],
    out: Path,
    messages: Sequence[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fails unless the command ends with the messages before the model is loaded, and leaves no results."""
    monkeypatch.setattr(loading, "load_model", lambda *_: pytest.fail("the model was loaded first"))
    assert reproduce() == 1
    assert_error_line(capsys, *messages)
    assert not out.exists()
