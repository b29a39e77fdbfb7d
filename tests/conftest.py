"""Settings of PyTorch and Triton for all tests. Helpers are in tests/support."""

import os

import pytest
import torch

from tests.ptx import plugin as ptx
from tests.support.triton_interpreter import replace_the_language_once_per_launch


def pytest_addoption(parser):
    ptx.add_options(parser)
    parser.addoption("--auto", choices=("cpp", "triton"), help='the backend that "auto" takes on the CPU')


def pytest_configure(config):
    if config.option.ptx:
        ptx.install(config)
    elif torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products need it
    else:
        os.environ.setdefault(
            "TRITON_INTERPRET", "1"
        )  # set before the kernels are imported, so that they run on the CPU
    replace_the_language_once_per_launch()
    if config.option.auto:
        from pymultiling.ops import dispatch

        dispatch.FASTEST["cpu"] = config.option.auto


def pytest_collection_modifyitems(config, items):
    if config.option.ptx:
        ptx.deselect(config, items)


@pytest.fixture(autouse=True, scope="session")
def single_thread():
    """Tiny models are faster on one thread, and bitwise comparisons need the same order of additions."""
    torch.set_num_threads(1)
