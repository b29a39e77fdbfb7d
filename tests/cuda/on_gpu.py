"""The CUDA kernel on a GPU: exactness, the same bits, graphs, one kernel a call. test_on_gpu.py runs this."""

from dataclasses import replace

import pytest
import torch

from pymultiling.ops import qk_importance, reference
from tests.cuda.test_emulated_qk_importance import HOSTILE, KINDS, arguments_of, turned_away
from tests.support.error_budget import within
from tests.support.qk_cases import Case, cast, largest_score

LONG = {
    "several tiles of keys": Case(batch=1, length=300, size=128),
    "more items than blocks": Case(batch=8, kv_heads=8, length=180, size=32, padding="some"),
    "not the rotated plain ones": Case(length=150, size=64),
}


def on_gpu(arguments: tuple) -> list:
    return [x if x is None else x.cuda() for x in arguments]


@pytest.mark.parametrize("name", [*KINDS, *HOSTILE, *LONG])
def test_equals_the_reference(name):
    case = (KINDS | HOSTILE | LONG)[name]
    arguments = turned_away(case) if "not the" in name else arguments_of(case, wide_tables="float32" in name)
    settings = case.settings()
    exact = reference.qk_importance(*cast(arguments, torch.float64), *settings.values())
    plain = reference.qk_importance(*arguments, *settings.values())
    times = 1 + largest_score(cast(arguments, torch.float64), case)
    for a, p, e in zip(qk_importance(*on_gpu(arguments), **settings, backend="cuda"), plain, exact):
        within("qk_importance", a.cpu(), p, e, times=times)


@pytest.fixture
def call():
    case = replace(KINDS["half"], batch=3, length=200)
    arguments = on_gpu(arguments_of(case))
    return lambda *inputs: qk_importance(*inputs, **case.settings(), backend="cuda"), arguments


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
