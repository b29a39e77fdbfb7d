"""What the tests of `reproduce` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pymultiling.models import loading
from tests.support.command_line import assert_error_line


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
