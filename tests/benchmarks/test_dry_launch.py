"""A kernel that is compiled without a GPU has the key under which a launch looks it up in Triton's cache."""

import json

import pytest

from tests.support.programs import run_module

pytest.importorskip("triton", reason="Triton is not installed")


def run_program(action: str, **environment: str):
    return run_module("tests.support.dry_launch_program", action, **environment)


def test_a_launch_finds_the_kernel_that_was_compiled_without_a_gpu(tmp_path):
    """A driver that records launches stands for the GPU: all of Triton's own code runs, up to the launch."""
    environment = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    compiled, launched = (run_program(action, **environment) for action in ("compile", "launch"))
    assert compiled.returncode == launched.returncode == 0, compiled.stderr + launched.stderr
    ((key, was_cached),), launches = json.loads(compiled.stdout)
    assert not was_cached and launches == 0
    assert json.loads(launched.stdout) == [[[key, True]], 2]


def test_interpreted_kernels_are_not_compiled():
    completed = run_program("compile", TRITON_INTERPRET="1")
    assert completed.returncode == 1 and "unset it" in completed.stderr
