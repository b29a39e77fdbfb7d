"""normed_energy against its definition: remove a neuron's columns and recompute the norm, in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pymultiling.errors import BackendUnavailable
from pymultiling.ops import normed_energy, value_gram
from pymultiling.ops.reference.normed_energy import ROWS
from pymultiling.ops.registry import OPERATORS
from tests.support.backends import running_on
from tests.support.error_budget import floor_of, relative_error
from tests.support.normed_changes import by_definition
from tests.support.operator_inputs import (
    document_counts,
    document_ids,
    dtypes,
    examples,
    layouts,
    matrix,
    per_document,
    token_counts,
)

EPS = 1e-5


def arguments(seed, tokens, kv_heads, group, size, width, dtype=torch.float64, layout="contiguous", bias=0.0):
    """Returns random arguments of the operator: all but documents and count."""
    neurons = kv_heads * group * size
    x, weight = matrix(seed, tokens, neurons, dtype, layout), matrix(seed + 1, width, neurons, dtype)
    output = x @ weight.T + bias
    multiplier = matrix(seed + 2, 1, width, dtype)[0]
    return x, output, weight, multiplier, *grams(weight, multiplier, kv_heads, size), EPS


def grams(weight, multiplier, kv_heads, size):
    """Returns gram and scaled_gram of a weight."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    scaled = weight.to(dtype) * multiplier.to(dtype)[:, None]
    return [value_gram(w, kv_heads, size, backend="torch") for w in (weight, scaled)]


def check(inputs, ids, count, backend):
    """Compares the results of a backend with the definition, up to the rounding of the terms.

    Errors are relative to the size of the terms. Returns the largest.
    """
    worst = 0.0
    actual = normed_energy(*inputs, ids, count, columns=True, backend=backend)
    plain = normed_energy(*inputs, ids, count, columns=True, backend="torch")
    alone = normed_energy(*inputs, ids, count, backend=backend)
    assert torch.equal(alone.energy, actual.energy) and alone.columns.shape == (0, inputs[0].shape[1])
    for single, result in enumerate(actual._fields):
        values = by_definition(*inputs, single=bool(single))
        exact, terms = (per_document(x, ids, count) for x in values)
        energy = getattr(actual, result)
        assert energy.dtype == torch.promote_types(inputs[0].dtype, torch.float32) and energy.shape == exact.shape
        floor = 1e-9 if energy.dtype == torch.float64 else floor_of(OPERATORS["normed_energy"].budget, inputs)
        errors = [(x - exact).abs() / (terms + exact).clamp(min=1e-30) for x in (energy, getattr(plain, result))]
        largest, allowed = (x.max() if x.numel() else 0.0 for x in errors)
        assert largest <= 2 * allowed + floor, (largest, allowed)
        worst = max(worst, float(largest))
    return worst


@examples
@given(
    st.data(),
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from([1, 3, 17, 70]),
    st.sampled_from([1, 2, 7, 33, 40]),
    document_counts,
    layouts,
    st.sampled_from([0.0, 0.7]),
    st.integers(0, 99),
)
def test_equals_the_change_without_each_neuron(backend, data, kv_heads, group, size, width, count, layout, bias, seed):
    dtype, tokens = data.draw(st.sampled_from(dtypes(backend))), data.draw(token_counts(backend))
    inputs = arguments(seed, tokens, kv_heads, group, size, width, dtype, layout, bias)
    check(inputs, document_ids(seed, tokens, count), count, backend)


@pytest.mark.parametrize("dtype, allowed", [(torch.float32, 1e-4), (torch.bfloat16, 1e-4), (torch.float16, 1e-4)])
def test_narrow_inputs_are_summed_in_float32(dtype, allowed):
    inputs = arguments(0, 50, 2, 2, 4, 24, dtype)
    energy, _ = normed_energy(*inputs)
    assert energy.dtype == torch.float32
    torch.testing.assert_close(energy[0].double(), by_definition(*inputs)[0].sum(0), rtol=allowed, atol=0)


def test_equals_the_change_for_neurons_of_one_column(backend):
    """For the FFN and o each column is a head."""
    x, output, weight, multiplier, *_ = arguments(
        3, 30, 1, 1, 9, 12, torch.float64 if backend == "torch" else torch.float32
    )
    inputs = (x, output, weight, multiplier, *grams(weight, multiplier, 9, 1), EPS)
    assert inputs[4].shape == (9, 1, 1, 1)
    check(inputs, torch.zeros(30, dtype=torch.int64), 1, backend)


def test_equals_the_change_for_more_tokens_than_one_block(backend):
    inputs = arguments(0, 2 * ROWS + 3, 1, 2, 3, 8, torch.float64 if backend == "torch" else torch.float32)
    check(inputs, document_ids(0, 2 * ROWS + 3, 3), 3, backend)


@pytest.mark.parametrize("group, size", [(1, 1), (1, 3), (2, 40)])
def test_products_that_triton_computes_in_parts_give_the_same(monkeypatch, group, size):
    """Neurons of one column are split where 64 columns end, and those of heads between key heads."""
    module = pytest.importorskip("pymultiling.triton_kernels.normed_energy")
    kv_heads = 150 // size
    with running_on("triton"):
        inputs, ids = arguments(5, 10, kv_heads, group, size, 12, torch.float32), document_ids(5, 10, 2)
        whole = normed_energy(*inputs, ids, 2, columns=True, backend="triton")
        products: list[int] = []
        monkeypatch.setattr(module, "PRODUCT_BYTES", 20 * 100 * 4)  # of 100 columns
        monkeypatch.setattr(module, "matrix_product", lambda f, w: products.append(w.shape[1]) or f @ w)
        parts = normed_energy(*inputs, ids, 2, columns=True, backend="triton")
    assert len(products) > 1 and sum(products) == inputs[0].shape[1]
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=0)


@pytest.mark.parametrize("width", [63, 640])
def test_a_massive_output_keeps_the_digits_of_bfloat16_neurons(backend, width):
    """All neurons write most into one output, so that (g^2 f).v is one product, whose rounding no others average."""
    x, output, weight, multiplier, *_ = arguments(0, 24, 1, 1, 40, width, torch.bfloat16)
    output[:, 0] *= 300
    weight[0] *= 50
    inputs = (x, output, weight, multiplier, *grams(weight, multiplier, 40, 1), EPS)
    assert check(inputs, document_ids(0, 24, 2), 2, backend) < 5e-5


def test_bfloat16_neurons_that_make_a_dense_output_keep_their_digits(backend):
    """A neuron writes most of an output that has no massive entries, so that its terms cancel and all g^2 f round."""
    x, output, weight, multiplier, *_ = arguments(0, 24, 1, 1, 40, 640, torch.bfloat16)
    weight[:, 0] *= 30
    output = x @ weight.T
    inputs = (x, output, weight, multiplier, *grams(weight, multiplier, 40, 1), EPS)
    assert check(inputs, document_ids(0, 24, 2), 2, backend) < 5e-4


def test_small_changes_keep_their_digits():
    x, output, weight, multiplier, *_ = arguments(0, 20, 2, 1, 3, 16, bias=50.0)
    x, output = x * 1e-6, output * 1e-6 + 1.0
    inputs = (x, output, weight, multiplier, *grams(weight, multiplier, 2, 3), EPS)
    exact = by_definition(*inputs)[0].sum(0)
    torch.testing.assert_close(normed_energy(*inputs).energy[0], exact, rtol=1e-6, atol=0)


def test_equals_the_change_for_a_neuron_that_makes_the_whole_output():
    """Without this neuron the output is zero and only eps is left of the norm."""
    x, weight = torch.full((4, 1), 3.0, dtype=torch.float64), matrix(0, 6, 1, torch.float64)
    multiplier = torch.ones(6, dtype=torch.float64)
    inputs = (x, x @ weight.T, weight, multiplier, *grams(weight, multiplier, 1, 1), EPS)
    assert relative_error(normed_energy(*inputs).energy, by_definition(*inputs)[0].sum(0)[None]) < 1e-6


def test_padding_is_left_out_and_empty_documents_give_zero():
    inputs = arguments(0, 6, 2, 1, 2, 5)
    alone, _ = normed_energy(*inputs, torch.tensor([1, -1, 1, -1, -1, 1]), 3)
    assert not alone[0].any() and not alone[2].any() and alone[1].all()
    tokens = [0, 2, 5]
    x, output, *weights = inputs
    torch.testing.assert_close(
        alone[1:2], normed_energy(x[tokens], output[tokens], *weights).energy, rtol=1e-12, atol=0
    )
    assert normed_energy(*inputs, torch.full((6,), -1), 0).energy.shape == (0, 4)


def test_a_gram_that_is_not_symmetric_counts_with_both_of_its_halves(backend):
    x, output, weight, multiplier, gram, scaled_gram, eps = arguments(0, 7, 2, 3, 4, 9, torch.float32)
    lower = [g.tril() + g.tril(-1) for g in (gram, scaled_gram)]
    expected = normed_energy(x, output, weight, multiplier, gram, scaled_gram, eps, backend="torch").energy
    actual = normed_energy(x, output, weight, multiplier, *lower, eps, backend=backend).energy
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=0)


def test_nan_stays_in_its_document(backend):
    inputs = arguments(0, 6, 2, 1, 2, 5, torch.float32)
    inputs[1][4, 2] = torch.nan
    energy, _ = normed_energy(*inputs, torch.tensor([0, 0, 0, 1, 1, 1]), 2, backend=backend)
    assert energy[0].isfinite().all() and energy[1].isnan().all()


@pytest.mark.parametrize(
    "place, wrong",
    [
        (0, torch.ones(3)),
        (0, torch.ones(6, 5, dtype=torch.float64)),
        (1, torch.ones(5, 5, dtype=torch.float64)),
        (2, torch.ones(4, 4, dtype=torch.float64)),
        (3, torch.ones(4, dtype=torch.float64)),
        (4, torch.ones(2, 2, 1, dtype=torch.float64)),
        (4, torch.ones(2, 3, 1, 1, dtype=torch.float64)),
        (5, torch.ones(1, 1, 2, 2, dtype=torch.float64)),
        (2, torch.ones(5, 4)),
        (0, torch.ones(6, 4, dtype=torch.int64)),
    ],
)
def test_wrong_arguments_are_refused(place, wrong):
    inputs = list(arguments(0, 6, 2, 1, 2, 5))
    inputs[place] = wrong
    with pytest.raises(ValueError, match="must be"):
        normed_energy(*inputs)


def test_a_backend_without_a_kernel_is_refused():
    with pytest.raises(BackendUnavailable, match=r'cannot run normed_energy: .*; backend="torch" always can'):
        normed_energy(*arguments(0, 6, 2, 1, 2, 5, torch.float32), backend="cuda")


def test_the_number_of_threads_changes_no_bit(backend, two_threads):
    inputs, ids = arguments(0, 300, 2, 3, 20, 40, torch.float32), document_ids(0, 300, 3)
    two = normed_energy(*inputs, ids, 3, columns=True, backend=backend)
    torch.set_num_threads(1)
    one = normed_energy(*inputs, ids, 3, columns=True, backend=backend)
    assert torch.equal(two.energy, one.energy) and torch.equal(two.columns, one.columns)


def test_is_a_torch_operator_and_compiles():
    inputs = (*arguments(0, 6, 2, 2, 3, 5, torch.float32), document_ids(0, 6, 2), 2)
    operator = torch.ops.pymultiling.normed_energy
    for columns in (False, True):
        torch.library.opcheck(operator.default, (*inputs, columns))
    compiled = torch.compile(lambda *a: normed_energy(*a).energy + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), normed_energy(*inputs).energy + 1)
