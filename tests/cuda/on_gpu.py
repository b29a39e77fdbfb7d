"""Tests of the CUDA kernel on a GPU, run by test_on_gpu.py: exactness, determinism, CUDA graphs, launches."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.ops.registry import OPERATORS
from tests.cuda.test_emulated_qk_importance import EXTREME_CASES, KINDS, four_exponentials_problem, make_problem
from tests.support.error_budget import assert_within_budget
from tests.support.qk_cases import Case, importance, to_dtype

LONG_CASES = {
    "several tiles of keys": Case(batch=1, length=300, size=128),
    "more items than blocks": Case(batch=8, kv_heads=8, length=180, size=32, padding="some"),
}

reference = OPERATORS["qk_importance"].reference()


def to_gpu(problem: QKProblem) -> QKProblem:
    return QKProblem(*(x.cuda() if isinstance(x, Tensor) else x for x in problem))


PROBLEMS = {name: make_problem(case) for name, case in (KINDS | EXTREME_CASES | LONG_CASES).items()}
PROBLEMS["four exponentials"] = four_exponentials_problem(Case(length=150, size=64))


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_equals_the_reference(problem: QKProblem) -> None:
    exact, plain = reference(to_dtype(problem, torch.float64)), reference(problem)
    for actual, p, e in zip(importance(to_gpu(problem), backend="cuda"), plain, exact):
        assert_within_budget("qk_importance", actual.cpu(), p, e, (problem,))


@pytest.fixture
def call() -> tuple[Callable[..., tuple[Tensor, Tensor]], QKProblem]:
    """A function that runs the kernel, and its arguments."""
    case = replace(KINDS["half"], batch=3, length=200)
    return lambda *inputs: importance(QKProblem(*inputs), backend="cuda"), to_gpu(make_problem(case))


def test_results_are_bit_identical_in_every_run(call) -> None:
    function, arguments = call
    first = function(*arguments)
    for _ in range(20):
        assert all(map(torch.equal, first, function(*arguments)))


def test_a_call_launches_one_kernel(call) -> None:
    function, arguments = call
    function(*arguments)  # allocates the counters
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function(*arguments)
        torch.cuda.synchronize()
    launched = [x.name for x in profile.events() if x.device_type == torch.autograd.DeviceType.CUDA]
    assert len(launched) == 1 and "qk_importance" in launched[0], launched


def test_replays_of_a_cuda_graph_give_the_same_results(call) -> None:
    function, arguments = call
    expected = function(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function(*arguments)
    for _ in range(3):
        for x in results:
            x.zero_()
        graph.replay()
        assert all(map(torch.equal, results, expected))


def test_is_a_torch_operator(call) -> None:
    _, arguments = call
    torch.library.opcheck(torch.ops.pymultiling.qk_importance.default, tuple(arguments), {"backend": "cuda"})
