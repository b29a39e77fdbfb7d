"""Shared by all tests; helpers are in tests/support."""

import os

import pytest
import torch

if torch.cuda.is_available():
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which deterministic matrix products ask for
else:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports the kernels: they run on the CPU then


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny models are slower on more threads, and bitwise comparisons need the same split of work."""
    torch.set_num_threads(1)
