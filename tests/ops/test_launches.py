"""A launcher runs nothing on the device but its kernels: counted on the CPU, where no kernel runs."""

import pytest
import torch

from pymultiling.ops import backends
from pymultiling.ops.registry import OPERATORS
from tests.support.operator_calls import ODD, layer_calls

if (reason := backends.load_triton()) is not None:
    pytest.skip(reason, allow_module_level=True)

from triton.runtime.interpreter import GridExecutor

from pymultiling import triton_kernels
from pymultiling.triton_kernels import normed_energy, qk_heads

pytestmark = pytest.mark.skipif(not triton_kernels.interpreted(), reason="test_on_device.py counts them on the GPU")
WITH_KERNELS = [name for name, operator in OPERATORS.items() if "triton" in operator.kernels]
NOT_ON_THE_DEVICE = (
    "aten::empty", "aten::new_empty", "aten::contiguous", "aten::to", "aten::view", "aten::select", "aten::slice",
    "aten::alias", "aten::as_strided",
)  # fmt: skip
# The second kernel of nearest_neighbors looks at the rows that the first has left open. A matrix product of PyTorch is
# between the two kernels of normed_energy.
KERNELS = {"nearest_neighbors": 2, "normed_energy": 3}


@pytest.fixture
def launched(monkeypatch):
    """Makes a launch append its kernel to the list that is returned, and do nothing else."""
    kernels = []
    monkeypatch.setattr(GridExecutor, "__call__", lambda self, *_, **__: kernels.append(self.fn.__name__))
    counters = torch.zeros(100, dtype=torch.int32)  # on a GPU they are allocated once, on the CPU at every call
    monkeypatch.setattr(qk_heads, "counters", lambda device, count: counters)

    def product(factors, weight):
        kernels.append("matrix product")
        return torch.empty(len(factors), weight.shape[1])

    monkeypatch.setattr(normed_energy, "matrix_product", product)
    return kernels


def torch_kernels(name: str) -> list[str]:
    """Returns the names of the operations of torch with which a launcher would run kernels on a GPU."""
    launch = OPERATORS[name].launcher
    (*_, call) = layer_calls(name, ODD, torch.bfloat16, torch.device("cpu"))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        launch(*call.reference_arguments)
    names = [event.name for event in profile.events()]
    return [name for name in names if name.startswith("aten::") and name not in NOT_ON_THE_DEVICE]


@pytest.mark.parametrize("name", WITH_KERNELS)
def test_a_launcher_runs_its_kernels_and_nothing_else(launched, unfilled_memory, name):
    assert torch_kernels(name) == []
    assert len(launched) == KERNELS.get(name, 1)


@pytest.mark.parametrize("name", [name for name in WITH_KERNELS if not OPERATORS[name].mutates])
def test_fills_of_fresh_memory_are_counted(launched, name):
    """In the deterministic mode of these tests torch.empty fills its memory, unless `unfilled_memory` is used."""
    assert set(torch_kernels(name)) == {"aten::fill_"}
