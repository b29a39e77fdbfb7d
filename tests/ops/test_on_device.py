"""What only a GPU shows: one kernel a call, the same bits every time, graphs, compiled callers."""

from collections.abc import Callable

import pytest
import torch

from pymultiling import ops

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")


def documents(tokens: int = 600) -> torch.Tensor:
    """Three runs, the last of padding."""
    return torch.tensor([0, 1, -1], device="cuda").repeat_interleave(tokens // 3)


def gated_ffn() -> tuple[Callable, tuple[torch.Tensor, ...]]:
    gate, up = torch.randn(2, 600, 1000, device="cuda", dtype=torch.bfloat16)
    masks, ids = torch.rand(2, 1000, device="cuda") < 0.3, documents()

    def call(gate, up):
        return ops.gated_ffn(gate, up, documents=ids, count=2, masks=masks, mask_ids=ids)

    return call, (gate, up)


def column_energy() -> tuple[Callable, tuple[torch.Tensor, ...]]:
    ids = documents()
    return lambda x: ops.column_energy(x, ids, 2), (torch.randn(600, 1000, device="cuda", dtype=torch.bfloat16),)


def active_count() -> tuple[Callable, tuple[torch.Tensor, ...]]:
    ids = documents()
    return lambda x: ops.active_count(x, ids, 2), (torch.randn(600, 1000, device="cuda", dtype=torch.bfloat16),)


def value_energy() -> tuple[Callable, tuple[torch.Tensor, ...]]:
    gram, ids = torch.rand(2, 64, 4, 4, device="cuda"), documents()
    attention = torch.randn(600, 2 * 64 * 4, device="cuda", dtype=torch.bfloat16)
    return lambda attention: ops.value_energy(attention, gram, ids, 2), (attention,)


def mask_neurons(inplace: bool = False) -> tuple[Callable, tuple[torch.Tensor, ...]]:
    masks, ids = torch.rand(2, 1000, device="cuda") < 0.3, documents()
    x = torch.randn(600, 1000, device="cuda", dtype=torch.bfloat16)
    return lambda x: ops.mask_neurons(x, masks, ids, inplace=inplace), (x,)


def mask_neurons_() -> tuple[Callable, tuple[torch.Tensor, ...]]:
    return mask_neurons(inplace=True)


def nearest_neighbors() -> tuple[Callable, tuple[torch.Tensor, ...]]:
    return lambda x: ops.nearest_neighbors(x, 5), (torch.randn(600, 70, device="cuda", dtype=torch.bfloat16),)


def qk_importance(mode: str = "exact") -> tuple[Callable, tuple[torch.Tensor, ...]]:
    q = torch.randn(1, 4, 70, 64, device="cuda", dtype=torch.bfloat16)
    k = torch.randn(1, 2, 70, 64, device="cuda", dtype=torch.bfloat16)
    valid = torch.ones(1, 70, device="cuda", dtype=torch.bool)
    return lambda q, k: ops.qk_importance(q, k, valid=valid, scale=0.125, mode=mode), (q, k)


def qk_estimate() -> tuple[Callable, tuple[torch.Tensor, ...]]:
    return qk_importance(mode="fast")


# Each makes a function and its arguments; all else that the operator takes is made beforehand.
CALLS = (
    active_count,
    column_energy,
    gated_ffn,
    mask_neurons,
    mask_neurons_,
    nearest_neighbors,
    qk_estimate,
    qk_importance,
    value_energy,
)


@pytest.fixture(params=CALLS, ids=lambda make: make.__name__)
def call(request) -> tuple[Callable, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    return request.param()


def results(function: Callable, arguments: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Copies, and the arguments are left as they are."""
    found = function(*(x.clone() for x in arguments))
    return [x.clone() for x in ((found,) if isinstance(found, torch.Tensor) else found)]


def test_one_kernel_a_call(call, request):
    function, arguments = call
    # The second one of nearest_neighbors looks at rows left open.
    kernels = 2 if request.node.callspec.params["call"] is nearest_neighbors else 1
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
    compiled = torch.compile(lambda *x: function(*(y * 2 for y in x)), fullgraph=True)
    expected = results(function, tuple(x * 2 for x in arguments))
    assert all(map(torch.equal, results(compiled, arguments), expected))
