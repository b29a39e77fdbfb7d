"""Triton kernels on a GPU: one kernel per call, the same bits every time, CUDA graphs, compiled callers."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.gpu.cases import Case
from pymultiling.ops.registry import OPERATORS
from tests.support.operator_calls import SMALL, layer_calls

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")


def call_of(operator: str, device: torch.device) -> tuple[Callable, tuple[torch.Tensor, ...]]:
    """Returns a function that runs an operator on its first tensor, and the tuple of this tensor.

    All other arguments are fixed.
    """
    first, *rest = layer_calls(operator, SMALL, torch.bfloat16, device)[-1].arguments
    entry = OPERATORS[operator]

    def call(x: torch.Tensor):
        outputs = Case(operator, "", entry.python_arguments((x, *rest))).on("auto")()
        return outputs[0] if len(outputs) == 1 else outputs

    return call, (first,)


@pytest.fixture(params=[name for name, operator in OPERATORS.items() if "triton" in operator.kernels])
def call(request) -> tuple[Callable, tuple[torch.Tensor, ...]]:
    """Returns what `call_of` returns, for every operator with a Triton kernel."""
    return call_of(request.param, torch.device("cuda"))


def results(function: Callable, arguments: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Returns copies of the results for copies of the arguments."""
    outputs = function(*(x.clone() for x in arguments))
    return [x.clone() for x in ((outputs,) if isinstance(outputs, torch.Tensor) else outputs)]


def test_a_call_launches_one_kernel(call, request, unfilled_memory):
    function, arguments = call
    # The second kernel of nearest_neighbors looks at the rows that the first has left open. A matrix product of PyTorch
    # is between those of normed_energy, and may have several kernels.
    operator = request.node.callspec.params["call"]
    kernels = {"nearest_neighbors": 2, "normed_energy": 2}.get(operator, 1)
    function(*arguments)  # compiles
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        function(*arguments)
        torch.cuda.synchronize()
    on_device = [x.name for x in profile.events() if x.device_type == torch.autograd.DeviceType.CUDA]
    if operator == "normed_energy":
        assert len(on_device) > kernels
        on_device = [name for name in on_device if name == "kernel"]
    assert len(on_device) == kernels, on_device


def test_the_same_bits_every_time(call):
    first = results(*call)
    for _ in range(5):
        assert all(map(torch.equal, first, results(*call)))


def test_a_cuda_graph_replays_with_new_inputs(call):
    function, arguments = call
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results(function, arguments)  # compiles
    torch.cuda.current_stream().wait_stream(stream)
    inputs, graph = [x.clone() for x in arguments], torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function(*inputs)
    for x, y in zip(inputs, arguments):
        x.copy_(y.flip(-1))
    expected = results(function, tuple(y.flip(-1) for y in arguments))
    graph.replay()
    assert all(map(torch.equal, (outputs,) if isinstance(outputs, torch.Tensor) else outputs, expected))


def test_a_compiled_caller_is_one_graph(call):
    function, arguments = call
    torch.compiler.reset()  # all operators share one caller, which torch compiles only a few times
    compiled = torch.compile(lambda *x: function(*(y * 2 for y in x)), fullgraph=True)
    expected = results(function, tuple(x * 2 for x in arguments))
    assert all(map(torch.equal, results(compiled, arguments), expected))
