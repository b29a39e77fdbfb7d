"""Which launches take a compiled kernel from the table, and with what it is launched. The kernels are stand-ins."""

import pytest
import torch

from pymultiling.ops import backends

if (reason := backends.load_triton()) is not None:
    pytest.skip(reason, allow_module_level=True)

from pymultiling.triton_kernels import launching


class Compiled:
    """Keeps with what it is launched."""

    def __init__(self):
        self.launches = []

    def __getitem__(self, grid):
        return lambda *arguments: self.launches.append((grid, arguments))


class Kernel:
    """Keeps with what Triton's own launch is called, which returns a compiled kernel."""

    arg_names = ("x", "y", "number", "scale", "LATE", "EARLY")

    def __init__(self):
        self.calls, self.compiled = [], []

    def __getitem__(self, grid):
        def launch(*arguments, **keywords):
            self.calls.append((grid, arguments, keywords))
            self.compiled.append(Compiled())
            return self.compiled[-1]

        return launch


@pytest.fixture(autouse=True)
def compiled_kernels(monkeypatch):
    monkeypatch.setattr(launching, "is_interpreted", lambda kernel: False)
    monkeypatch.setattr(launching, "_known", {})


X = torch.zeros(64)
CONSTANTS = {"EARLY": 1, "LATE": True}


def launch(kernel, arguments, constants=CONSTANTS, programs=3, **options):
    launching.launch_kernel(kernel, programs, arguments, constants, **{"num_warps": 4, "num_stages": 1, **options})


def test_the_first_launch_is_tritons_and_the_next_takes_its_kernel():
    kernel, arguments = Kernel(), (X, None, 8, 0.5)
    launch(kernel, arguments)
    assert kernel.calls == [((3,), arguments, {**CONSTANTS, "num_warps": 4, "num_stages": 1})]
    launch(kernel, arguments, programs=5)
    assert len(kernel.calls) == 1
    # Constants stand where the kernel has them, whatever their order in the call.
    assert kernel.compiled[0].launches == [((5, 1, 1), (*arguments, True, 1))]


def test_another_tensor_with_the_same_layout_is_passed_on():
    kernel, other = Kernel(), torch.ones(64)
    launch(kernel, (X, None, 8, 0.5))
    launch(kernel, (other, None, 8, 0.5))
    assert kernel.compiled[0].launches[0][1][0] is other


@pytest.mark.parametrize(
    "changed",
    [
        (X[1:], None, 8, 0.5),
        (X.double(), None, 8, 0.5),
        (X, X, 8, 0.5),
        (X, None, 1, 0.5),
        (X, None, True, 0.5),
        (X, None, 2**33, 0.5),
        (X, None, 8, 1),
        (X, None, 8, 1.0),
        (X, None, 8, None),
    ],
    ids=["alignment", "dtype", "a tensor for None", "1", "True", "64 bits", "an integer", "another number", "none"],
)
def test_what_triton_may_look_at_needs_its_launch(changed):
    kernel = Kernel()
    for arguments in ((X, None, 8, 0.5), (X, None, 8, 1.5), changed):
        launch(kernel, arguments)
    assert len(kernel.calls) == 3


@pytest.mark.parametrize("changed", [{"constants": {"EARLY": 2, "LATE": True}}, {"num_warps": 8}, {"num_stages": 2}])
def test_other_constants_and_options_need_tritons_launch(changed):
    kernel = Kernel()
    launch(kernel, (X, None, 8, 0.5))
    launch(kernel, (X, None, 8, 0.5), **changed)
    launch(Kernel(), (X, None, 8, 0.5))
    assert len(kernel.calls) == 2


def test_the_table_stays_bounded(monkeypatch):
    monkeypatch.setattr(launching, "MOST_LAUNCHES", 3)
    kernel = Kernel()
    for number in range(10):
        launch(kernel, (X, None, number, 0.5))
    assert len(launching._known) <= 3


def test_the_interpreter_always_gets_tritons_launch(monkeypatch):
    monkeypatch.setattr(launching, "is_interpreted", lambda kernel: True)
    kernel = Kernel()
    for _ in range(2):
        launch(kernel, (X, None, 8, 0.5))
    assert len(kernel.calls) == 2 and not launching._known
