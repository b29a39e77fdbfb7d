"""Fixtures of the operator benchmarks: shapes, dtypes, backends, and the timing of an operator."""

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.measuring.environment import describe
from benchmarks.operators.shapes import SHAPES, Shape
from pymultiling.errors import BackendUnavailable
from pymultiling.ops.dispatch import select_implementation
from pymultiling.ops.registry import OPERATORS


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, object]) -> None:
    machine_info.update(describe())


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.name)
def shape(request: pytest.FixtureRequest) -> Shape:
    return request.param


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=["cpp", "torch", "torch.compile"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def time_operator(benchmark: BenchmarkFixture, backend: str) -> Callable[..., None]:
    """A function of an operator's name and arguments that times it on `backend`.

    "torch.compile" is the compiled reference.
    """

    def run(name: str, *arguments: object) -> None:
        operator = OPERATORS[name]
        if backend == "torch.compile":
            function = torch.compile(operator.reference())
        else:
            try:
                function = select_implementation(name, arguments, backend)
            except BackendUnavailable as reason:
                pytest.skip(str(reason))
        benchmark.group = name
        input_bytes = sum(x.nbytes for x in operator.schema_arguments(arguments) if isinstance(x, torch.Tensor))
        benchmark.extra_info.update(backend=backend, input_bytes=input_bytes)
        with torch.no_grad():
            benchmark.pedantic(function, arguments, rounds=10, warmup_rounds=2)

    return run
