"""The CUDA kernel on a GPU: exactness, the same bits, graphs, one kernel a call. test_on_gpu.py runs this."""

from dataclasses import replace

import pytest
import torch

from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.ops.registry import OPERATORS
from tests.cuda.test_emulated_qk_importance import HOSTILE, KINDS, problem_of, turned_away
from tests.support.error_budget import assert_within_budget
from tests.support.qk_cases import Case, importance, to_dtype

LONG = {
    "several tiles of keys": Case(batch=1, length=300, size=128),
    "more items than blocks": Case(batch=8, kv_heads=8, length=180, size=32, padding="some"),
    "not the rotated plain ones": Case(length=150, size=64),
}


reference = OPERATORS["qk_importance"].reference()


def on_gpu(problem: QKProblem) -> QKProblem:
    return QKProblem(*(x.cuda() if isinstance(x, torch.Tensor) else x for x in problem))


@pytest.mark.parametrize("name", [*KINDS, *HOSTILE, *LONG])
def test_equals_the_reference(name):
    case = (KINDS | HOSTILE | LONG)[name]
    problem = turned_away(case) if "not the" in name else problem_of(case, wide_tables="float32" in name)
    exact, plain = reference(to_dtype(problem, torch.float64)), reference(problem)
    for a, p, e in zip(importance(on_gpu(problem), backend="cuda"), plain, exact):
        assert_within_budget("qk_importance", a.cpu(), p, e, (problem,))


@pytest.fixture
def call():
    case = replace(KINDS["half"], batch=3, length=200)
    return lambda *inputs: importance(QKProblem(*inputs), backend="cuda"), on_gpu(problem_of(case))


def test_the_same_bits_every_time(call):
    function, arguments = call
    first = function(*arguments)
    for _ in range(20):
        assert all(map(torch.equal, first, function(*arguments)))


def test_one_kernel_a_call(call):
    function, arguments = call
    function(*arguments)  # makes the counters
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function(*arguments)
        torch.cuda.synchronize()
    on_device = [x.name for x in profile.events() if x.device_type == torch.autograd.DeviceType.CUDA]
    assert len(on_device) == 1 and "qk_importance" in on_device[0], on_device


def test_in_a_graph(call):
    function, arguments = call
    expected = function(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = function(*arguments)
    for _ in range(3):
        for x in found:
            x.zero_()
        graph.replay()
        assert all(map(torch.equal, found, expected))
