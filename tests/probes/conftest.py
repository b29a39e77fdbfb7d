"""Fixtures of tests of probes."""

import pytest
import torch


@pytest.fixture
def reset_compiler():
    """Forgets what torch.compile has compiled, before the test and after it."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()
