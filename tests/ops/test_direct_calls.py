"""Calls that nothing watches run without the torch operator; every other call passes it."""

from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pymultiling.ops import dispatch
from pymultiling.ops.direct_calls import nothing_watches

CALL = dispatch._call  # before the fixtures of this folder replace it
DOCUMENTS = torch.tensor([0, 1, 1])


class Watcher(TorchDispatchMode):
    """Keeps the names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


class Wrapped(torch.Tensor):
    """A tensor of a type that torch does not know."""


def arguments(x):
    return x, DOCUMENTS, 2


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode], ids=lambda c: c.__name__)
def test_a_call_that_nothing_watches_is_direct(context):
    x = torch.randn(3, 4)
    with context(), mock.patch.object(dispatch, "call_torch_operator", side_effect=AssertionError):
        result = CALL("column_energy", arguments(x), "auto")
    torch.testing.assert_close(result, torch.ops.pymultiling.column_energy(x, DOCUMENTS, 2), rtol=0, atol=0)


def test_weights_are_plain_where_no_gradient_is_recorded():
    weight = torch.nn.Parameter(torch.randn(3, 4))
    assert not nothing_watches(arguments(weight))
    with torch.no_grad():
        assert nothing_watches(arguments(weight))


def test_a_dispatch_mode_sees_the_operator():
    with Watcher() as watcher:
        CALL("column_energy", arguments(torch.randn(3, 4)), "auto")
    assert "pymultiling::column_energy" in watcher.names


def test_torch_compile_sees_the_operator():
    graphs = []

    def keep_graph(graph, _):
        graphs.append(graph.code)
        return graph

    def energy(x):
        return CALL("column_energy", arguments(x), "auto") * 2

    x = torch.randn(3, 4)
    compiled = torch.compile(energy, fullgraph=True, backend=keep_graph)
    torch.testing.assert_close(compiled(x), energy(x), rtol=0, atol=0)
    assert "pymultiling.column_energy" in graphs[0]


@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is deprecated")
def test_function_modes_transforms_and_forward_derivatives_watch():
    x = torch.randn(3, 4)
    assert nothing_watches(arguments(x))
    with TorchFunctionMode():
        assert not nothing_watches(arguments(x))
    with FakeTensorMode():
        assert not nothing_watches(arguments(x))
    with forward_ad.dual_level():
        assert not nothing_watches(arguments(x))

    def keep(row):
        seen.append(nothing_watches(arguments(row)))
        return row

    seen = []
    torch.func.vmap(keep)(x)
    torch.jit.trace(keep, x, check_trace=False)
    assert seen == [False, False]


@pytest.mark.parametrize(
    "special",
    [
        torch.empty(3, 4, device="meta"),
        torch.randn(3, 4).as_subclass(Wrapped),
        torch.randn(3, 4, dtype=torch.complex64).conj().imag,
        torch.randn(3, 4, requires_grad=True),
    ],
    ids=["without memory", "another type", "negated", "gradient"],
)
def test_special_tensors_pass_the_torch_operator(special):
    assert not nothing_watches(arguments(special))


def test_an_operator_that_writes_passes_the_torch_operator():
    """torch then notes the change, so that a backward that needs the old values raises instead of using the new."""
    x, weight = torch.randn(3, 4), torch.randn(4, requires_grad=True)
    product = (x * weight).sum()
    masks, ids = torch.tensor([[True, False, False, True]]), torch.zeros(3, dtype=torch.int64)
    CALL("mask_neurons_", (x, masks, ids, 0.0, None), "auto")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_values_are_checked_in_direct_calls_too():
    points = torch.full((4, 2), torch.nan)
    with pytest.raises(ValueError, match="points must be finite"):
        CALL("nearest_neighbors", (points, 1, "cosine"), "auto")
