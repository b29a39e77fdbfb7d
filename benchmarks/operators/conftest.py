"""How every operator is timed, and what its row says."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.measuring.environment import describe
from benchmarks.operators.shapes import SHAPES
from pymultiling.ops import reference, unavailable


def pytest_benchmark_update_machine_info(config, machine_info) -> None:
    machine_info.update(describe())


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.name)
def shape(request):
    return request.param


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request):
    return request.param


@pytest.fixture(params=["cpp", "torch", "torch.compile"])
def backend(request):
    return request.param


@pytest.fixture
def time_operator(benchmark, backend) -> Callable[..., None]:
    """time_operator(name, *arguments): the operator on `backend`; "torch.compile" is the compiled reference."""

    def run(name: str, *arguments) -> None:
        if backend == "torch.compile":
            function = torch.compile(getattr(reference, name))
        elif (reason := unavailable(backend, arguments[0])) is not None:
            pytest.skip(reason)
        else:
            function = getattr(torch.ops.pymultiling_cpp if backend == "cpp" else reference, name)
        benchmark.group = name
        inputs = sum(x.numel() * x.element_size() for x in arguments if isinstance(x, torch.Tensor))
        benchmark.extra_info.update(backend=backend, input_bytes=inputs)
        with torch.no_grad():
            benchmark.pedantic(function, arguments, rounds=10, warmup_rounds=2)

    return run
