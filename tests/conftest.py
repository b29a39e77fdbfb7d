"""Shared by all tests: helpers are in tiny.py (models, documents) and brute_force.py (the oracle)."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny models are slower on more threads, and bitwise comparisons need the same split of work."""
    torch.set_num_threads(1)
