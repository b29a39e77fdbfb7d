"""mask_neurons on every backend against a loop over the rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pymultiling.ops import mask_neurons
from tests.support.operator_inputs import (
    dtypes,
    examples,
    is_interpreted,
    layouts,
    mask_sets,
    matrix,
    token_counts,
    widths,
)


def row_by_row(x, masks, mask_ids, scale=0.0, values=None):
    """Returns the result of mask_neurons, computed one row after another."""
    y = x.clone()
    for t, i in enumerate(mask_ids.tolist()):
        if i >= 0:
            selected = masks[i]
            y[t, selected] = 0 if values is None else values[selected]
            if scale:
                scaled = x[t, selected].to(torch.promote_types(x.dtype, torch.float32)) * scale
                y[t, selected] = (scaled if values is None else scaled + values[selected]).to(x.dtype)
    return y


@examples
@given(st.data(), layouts, st.booleans(), st.sampled_from([0.0, 2.0, -0.3]), st.booleans(), st.integers(0, 99))
def test_changes_the_neurons_of_each_rows_set_and_no_others(backend, data, layout, inplace, scale, with_values, seed):
    length, width = data.draw(token_counts(backend)), data.draw(widths(backend))
    x = matrix(seed, length, width, data.draw(st.sampled_from(dtypes(backend))), layout)
    masks, ids = mask_sets(seed, length, width)
    values = matrix(seed + 1, 1, width, x.dtype)[0] if with_values else None
    expected, before = row_by_row(x, masks, ids, scale, values), x.clone()
    y = mask_neurons(x, masks, ids, scale=scale, values=values, inplace=inplace, backend=backend)
    if scale and (with_values or is_interpreted(backend)):  # rounded once or twice; the interpreter truncates bf16
        torch.testing.assert_close(y, expected)
    else:
        assert torch.equal(y, expected)
    changed = masks[ids.clamp(min=0)] & (ids >= 0)[:, None]
    assert torch.equal(y[~changed], before[~changed])
    assert torch.equal(x, y if inplace else before)
    assert (y is x) == inplace


@pytest.mark.parametrize("inplace", [False, True])
def test_without_indices_set_0_is_applied_and_zeroes_nan(backend, inplace):
    x = torch.full((4, 33), torch.nan)
    masks = torch.arange(33)[None] % 2 == 0
    assert torch.equal(mask_neurons(x, masks, inplace=inplace, backend=backend).isnan(), ~masks.expand(4, -1))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_on_a_gpu_an_index_out_of_range_masks_nothing(backend, unchecked_values, inplace):
    ids = torch.tensor([0, 2, -2, 2**32, 1])
    y = mask_neurons(torch.ones(5, 3), torch.ones(2, 3).bool(), ids, inplace=inplace, backend=backend)
    assert y.any(1).tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(
    "masks, ids",
    [(torch.ones(1, 4).bool(), None), (torch.ones(1, 3), None), (torch.ones(1, 3).bool(), torch.zeros(3).long())],
)
def test_wrong_arguments_are_refused(masks, ids):
    with pytest.raises(ValueError, match="must"):
        mask_neurons(torch.ones(2, 3), masks, ids)


@pytest.mark.parametrize("values", [torch.ones(4), torch.ones(1, 3), torch.ones(3).double()])
def test_values_of_the_wrong_shape_or_dtype_are_refused(values):
    with pytest.raises(ValueError, match=r"values must be \(3,\) in torch.float32"):
        mask_neurons(torch.ones(2, 3), torch.ones(1, 3).bool(), values=values)


def test_gradients_are_those_of_the_result():
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    masks, ids = mask_sets(0, 5, 7)
    torch.autograd.gradcheck(lambda x: mask_neurons(x, masks, ids), (x,))
    values = torch.randn(7, dtype=torch.float64)
    torch.autograd.gradcheck(lambda x: mask_neurons(x, masks, ids, scale=-2.0, values=values), (x,))


def test_the_number_of_threads_changes_no_bit(backend, two_threads):
    if backend == "triton":
        pytest.skip("Triton kernels do not use CPU threads")
    x, (masks, ids) = matrix(0, 500, 300, torch.float32), mask_sets(0, 500, 300)
    two = mask_neurons(x, masks, ids, backend=backend)
    torch.set_num_threads(1)
    assert torch.equal(two, mask_neurons(x, masks, ids, backend=backend))


@pytest.mark.parametrize("inplace", [False, True])
def test_is_a_torch_operator_and_compiles(inplace):
    args = (matrix(0, 9, 5, torch.float32), *mask_sets(0, 9, 5))
    values = matrix(1, 1, 5, torch.float32)[0]
    operator = torch.ops.pymultiling.mask_neurons_ if inplace else torch.ops.pymultiling.mask_neurons
    torch.library.opcheck(operator.default, args)
    torch.library.opcheck(operator.default, (*args, 2.0, values))
    compiled = torch.compile(
        lambda x, *a: mask_neurons(x * 2, *a, inplace=inplace) + 1, fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(*args), row_by_row(args[0] * 2, *args[1:]) + 1)


def test_a_tensor_that_needs_a_gradient_is_not_overwritten():
    x = torch.ones(2, 3, requires_grad=True) * 2
    with pytest.raises(ValueError, match="out of place"):
        mask_neurons(x, torch.ones(1, 3).bool(), inplace=True)
