"""Every registered torch operator on every backend: what torch requires of a custom operator, under its own checks."""

import pytest
import torch

from pymultiling.ops import column_energy, mask_neurons
from pymultiling.ops.dispatch import TORCH_OPERATORS, why_unsupported
from pymultiling.ops.registry import OPERATORS
from tests.support.operator_calls import odd_calls

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # from NumPy in Triton's interpreter
LAYOUTS = {"contiguous": torch.float32, "strided": torch.bfloat16}


def supported_calls(name, backend, layout):
    """Returns the calls of an operator that a backend can run, or skips the test if there are none."""
    calls = list(odd_calls(name, LAYOUTS[layout], torch.get_default_device()))
    if layout == "strided":
        calls = [call.strided() for call in calls]
    if backend == "torch":
        return calls
    reasons = [why_unsupported(OPERATORS[name], backend, call.reference_arguments) for call in calls]
    supported = [call for call, reason in zip(calls, reasons) if reason is None]
    if not supported:
        pytest.skip(reasons[0])
    return supported


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPERATORS)
def test_results_are_as_declared_and_share_no_memory(backend, name, layout):
    """opcheck compares them with the fake implementation: shapes, dtypes, strides, what is written and what aliases."""
    for call in supported_calls(name, backend, layout):
        torch.library.opcheck(TORCH_OPERATORS[name], call.arguments, {"backend": backend})


def test_a_backend_asked_for_by_name_compiles_without_a_graph_break(backend):
    x, ids = torch.arange(12.0).view(4, 3), torch.tensor([0, 1, -1, 1])
    compiled = torch.compile(
        lambda x: column_energy(x * 2, ids, 2, backend=backend) + 1, fullgraph=True, backend="aot_eager"
    )
    assert compiled(x).tolist() == [[1.0, 5.0, 17.0], [361.0, 465.0, 585.0]]


def test_a_backend_asked_for_by_name_computes_gradients(backend):
    x = torch.ones(2, 3, requires_grad=True)
    masks, values = torch.tensor([[True, False, True]]), torch.full((3,), 5.0)
    y = mask_neurons(x, masks, torch.tensor([0, -1]), scale=-2.0, values=values, backend=backend)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == [[3.0, 1.0, 3.0], [1.0] * 3] and gradient.tolist() == [[-2.0, 1.0, -2.0], [1.0] * 3]


def test_plain_pytorch_that_is_asked_for_by_name_has_forward_derivatives(monkeypatch):
    """A custom operator has none."""
    monkeypatch.undo()  # of registered_operators
    x, masks = torch.ones(2, 3), torch.tensor([[True, False, True]])
    _, derivative = torch.func.jvp(lambda x: mask_neurons(x, masks, backend="torch"), (x,), (x,))
    assert derivative.tolist() == [[0.0, 1.0, 0.0]] * 2
