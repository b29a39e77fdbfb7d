"""How every operator is timed, and what its row says."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.measuring.environment import describe
from benchmarks.operators.shapes import SHAPES
from pymultiling.errors import BackendUnavailable
from pymultiling.ops.dispatch import select_implementation
from pymultiling.ops.registry import OPERATORS


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
        operator = OPERATORS[name]
        if backend == "torch.compile":
            function = torch.compile(operator.reference())
        else:
            try:
                function = select_implementation(name, arguments, backend)
            except BackendUnavailable as reason:
                pytest.skip(str(reason))
        benchmark.group = name
        inputs = sum(x.nbytes for x in operator.schema_arguments(arguments) if isinstance(x, torch.Tensor))
        benchmark.extra_info.update(backend=backend, input_bytes=inputs)
        with torch.no_grad():
            benchmark.pedantic(function, arguments, rounds=10, warmup_rounds=2)

    return run
