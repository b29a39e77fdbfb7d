"""What only a GPU shows: one kernel a call, the same bits every time, graphs, compiled callers."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.gpu.cases import Case
from benchmarks.operators.inputs import Layer, make_inputs
from benchmarks.operators.shapes import Shape
from pymultiling.ops.registry import OPERATORS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
SHAPE = Shape("small", hidden=512, layers=1, heads=8, kv_heads=2, ffn=1000, length=70)


def call_of(operator: str, device: torch.device) -> tuple[Callable, tuple[torch.Tensor, ...]]:
    """A function of the operator's first tensor, and that; all else that the operator takes is made beforehand."""
    torch.manual_seed(0)
    ids = torch.tensor([0, 1, -1], device=device).repeat_interleave(200)  # three runs, the last of padding
    layer = Layer(SHAPE, 2, ids, 2, ids, torch.bfloat16, device, masked=0.3)
    arguments = [one for one in make_inputs(operator, layer) if one.compared][-1].arguments
    row = OPERATORS[operator]
    first, *others = row.schema_arguments(arguments)

    def call(x: torch.Tensor):
        found = Case(operator, "", row.python_arguments((x, *others))).on("auto")()
        return found[0] if len(found) == 1 else found

    return call, (first,)


@pytest.fixture(params=[name for name, operator in OPERATORS.items() if "triton" in operator.kernels])
def call(request) -> tuple[Callable, tuple[torch.Tensor, ...]]:
    return call_of(request.param, torch.device("cuda"))


def results(function: Callable, arguments: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Copies, and the arguments are left as they are."""
    found = function(*(x.clone() for x in arguments))
    return [x.clone() for x in ((found,) if isinstance(found, torch.Tensor) else found)]


def test_one_kernel_a_call(call, request):
    function, arguments = call
    # The second one of nearest_neighbors looks at rows left open.
    kernels = 2 if request.node.callspec.params["call"] == "nearest_neighbors" else 1
    function(*arguments)  # compiles
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        function(*arguments)
        torch.cuda.synchronize()
    on_device = [x.name for x in profile.events() if x.device_type == torch.autograd.DeviceType.CUDA]
    assert len(on_device) == kernels, on_device


def test_the_same_bits_every_time(call):
    first = results(*call)
    for _ in range(5):
        assert all(map(torch.equal, first, results(*call)))


def test_in_a_graph(call):
    function, arguments = call
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results(function, arguments)  # compiles
    torch.cuda.current_stream().wait_stream(stream)
    inputs, graph = [x.clone() for x in arguments], torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = function(*inputs)
    for x, y in zip(inputs, arguments):
        x.copy_(y.flip(-1))
    expected = results(function, tuple(y.flip(-1) for y in arguments))
    graph.replay()
    assert all(map(torch.equal, (found,) if isinstance(found, torch.Tensor) else found, expected))


def test_compiled_in_one_graph(call):
    function, arguments = call
    torch.compiler.reset()  # all operators share the code of one function, which is compiled a few times at most
    compiled = torch.compile(lambda *x: function(*(y * 2 for y in x)), fullgraph=True)
    expected = results(function, tuple(x * 2 for x in arguments))
    assert all(map(torch.equal, results(compiled, arguments), expected))
