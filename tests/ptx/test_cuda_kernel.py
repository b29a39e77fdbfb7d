"""The CUDA kernel as nvcc compiles it, interpreted, against the float64 reference within the error budget."""

import ctypes
from dataclasses import replace

import pytest
import torch

from pymultiling.ops.registry import OPERATORS
from tests.cuda import emulated
from tests.cuda.test_emulated_qk_importance import SMALL, make_problem
from tests.ptx import cuda_kernel
from tests.ptx.interpreter import REVERSE, ROUND_ROBIN, Options
from tests.ptx.launches import launch
from tests.support.error_budget import assert_within_budget
from tests.support.qk_cases import Case, to_dtype

pytestmark = [pytest.mark.long, pytest.mark.skipif(emulated.COMPILER is None, reason="no C++ compiler")]
reference = OPERATORS["qk_importance"].reference()
BLOCKS = 2
# Blocks wait for each other, so that all of them run at the same time.
ORDERS = tuple(
    Options(schedule=schedule, late=late, residents=BLOCKS)
    for schedule, late in ((0, False), (REVERSE, True), (ROUND_ROBIN, True))
)

CASES = {
    "half": replace(SMALL, length=40),
    "interleaved, some padding": replace(SMALL, length=40, rotation="interleaved", padding="some", float32_tables=True),
    "no rotation, window": replace(SMALL, length=70, rotation=None, window=20, group=1),
    "after the rotation": replace(SMALL, length=20, before=False),
    "heads of 128": Case(batch=1, kv_heads=1, group=1, length=20, size=128),
    "large scores": replace(SMALL, length=40, query_factor=30),
}


def run(case: Case, target: str, orders: tuple[Options, ...]) -> None:
    """Runs the kernel and compares it with the reference."""
    kernel = cuda_kernel.compiled(target)
    if kernel is None:
        pytest.skip("the kernel has changed since its PTX was kept, and nvcc is not installed")
    layer = make_problem(case)
    problem, memory = emulated.prepare(layer, BLOCKS)
    tensors, argument = list(memory.values()), ctypes.string_at(ctypes.addressof(problem), ctypes.sizeof(problem))
    grid, threads = (BLOCKS, 1, 1), cuda_kernel.THREADS
    launch(
        "cuda.qk_importance",
        kernel.ptx,
        grid,
        threads,
        [argument],
        tensors,
        results=[memory["q_out"], memory["k_out"]],  # which block takes which item depends on the order
        shared=kernel.shared,
        orders=orders,
    )
    assert not memory["counters"].any()
    plain, exact = reference(layer), reference(to_dtype(layer, torch.float64))
    for name, p, e in zip(("q_out", "k_out"), plain, exact):
        assert_within_budget("qk_importance", memory[name], p, e, (layer,))


@pytest.mark.parametrize("target", cuda_kernel.TARGETS)
def test_all_orders_of_warps_and_blocks_give_the_same_bits(target):
    run(CASES["half"], target, ORDERS)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_reference(case):
    run(case, "sm_90", ORDERS[1:2])
