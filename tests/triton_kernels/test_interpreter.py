"""tests/support/triton_interpreter.py: the language is replaced once for each module and launch."""

from collections import Counter

import pytest
import torch

import pymultiling as pml
from pymultiling import triton_kernels
from pymultiling.ops import backends

if (reason := backends.load_triton()) is not None:
    pytest.skip(reason, allow_module_level=True)
pytestmark = pytest.mark.skipif(not triton_kernels.interpreted(), reason="the kernels do not run in the interpreter")


def test_each_launch_replaces_the_language_once_for_each_module(monkeypatch):
    """Counts what the interpreter replaces in two launches of a kernel that calls functions of other modules."""
    from triton.runtime import interpreter

    replaced = Counter()
    replace = interpreter._patch_lang

    def count(function):
        replaced[function.__module__] += 1
        return replace(function)

    monkeypatch.setattr(interpreter, "_patch_lang", count)
    x = torch.randn(5, 6)
    results = [pml.ops.column_energy(x, backend="triton") for _ in range(2)]
    assert len(replaced) > 1
    assert set(replaced.values()) == {2}, replaced
    assert torch.equal(*results)
