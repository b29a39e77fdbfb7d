"""A kernel that is compiled without a GPU has the key under which a launch looks it up in Triton's cache."""

import json

import pytest

from tests.support.programs import run_module

pytest.importorskip("triton", reason="Triton is not installed")


def test_a_launch_finds_the_kernel_that_was_compiled_without_a_gpu(tmp_path):
    """A driver that records launches stands for the GPU: all of Triton's own code runs, up to the launch."""
    completed = run_module("tests.support.dry_launch_program", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    assert completed.returncode == 0, completed.stderr
    compiled, launched, launches = json.loads(completed.stdout)
    assert [cached for _, cached in compiled] == [False]
    assert launched == [[key, True] for key, _ in compiled]
    assert launches == 1


def test_interpreted_kernels_are_not_compiled():
    completed = run_module("tests.support.dry_launch_program", TRITON_INTERPRET="1")
    assert completed.returncode == 1 and "unset it" in completed.stderr
