"""Every registered torch operator on every backend: what torch requires of a custom operator, under its own checks."""

import pytest
import torch

from pymultiling.ops import column_energy, mask_neurons
from pymultiling.ops.dispatch import TORCH_OPERATORS, why_unsupported
from pymultiling.ops.registry import OPERATORS
from tests.support.operator_calls import CHANGES, ODD, Call, changed_calls, layer_calls

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # from NumPy in Triton's interpreter
LAYOUTS = {"contiguous": torch.float32, "strided": torch.bfloat16}  # with the dtype of the tensors

each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def check(calls: list[Call], backend: str, layout: str) -> None:
    """Runs torch's checks of a custom operator on the calls. Skips the test if the backend supports none of them.

    The fake implementation declares shapes, dtypes, strides and offsets, the schema what is written and what aliases.
    """
    reasons = []
    for call in calls if layout == "contiguous" else [call.strided() for call in calls]:
        operator = OPERATORS[call.operator]
        reason = None if backend == "torch" else why_unsupported(operator, backend, call.reference_arguments)
        if reason is None:
            torch.library.opcheck(TORCH_OPERATORS[call.operator], call.arguments, {"backend": backend})
        else:
            reasons.append(reason)
    if len(reasons) == len(calls):
        pytest.skip(reasons[0])


@each_layout
@pytest.mark.parametrize("name", OPERATORS)
def test_results_are_as_declared_and_share_no_memory(backend, name, layout):
    check(layer_calls(name, ODD, LAYOUTS[layout], torch.get_default_device()), backend, layout)


@each_layout
@pytest.mark.parametrize("name", CHANGES)
def test_results_are_as_declared_with_other_arguments(backend, name, layout):
    check(changed_calls(name, ODD, LAYOUTS[layout], torch.get_default_device()), backend, layout)


@pytest.mark.parametrize("name", OPERATORS)
def test_autocast_changes_nothing(backend, name):
    (call, *_) = layer_calls(name, ODD, torch.float32, torch.get_default_device())
    if backend != "torch" and (reason := why_unsupported(OPERATORS[name], backend, call.reference_arguments)):
        pytest.skip(reason)

    def run():
        arguments = [x.clone() if isinstance(x, torch.Tensor) else x for x in call.arguments]  # some are written to
        results = TORCH_OPERATORS[name](*arguments, backend=backend)
        return arguments if results is None else results

    expected = run()
    with torch.autocast(torch.get_default_device().type, torch.bfloat16):
        torch.testing.assert_close(run(), expected, rtol=0, atol=0, equal_nan=True)


def test_a_backend_asked_for_by_name_compiles_without_a_graph_break(backend, monkeypatch):
    monkeypatch.undo()  # of registered_operators
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
