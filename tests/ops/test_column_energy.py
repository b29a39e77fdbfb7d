"""column_energy on every backend against float64 sums over each document."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pymultiling.ops import column_energy
from pymultiling.ops.registry import OPERATORS
from tests.support.error_budget import assert_within_budget
from tests.support.operator_inputs import (
    any_block_size,
    document_counts,
    document_ids,
    dtypes,
    examples,
    layouts,
    long_length,
    matrix,
    per_document,
    token_counts,
    widths,
)


def check(x, documents, count, backend):
    """Compares the sums of a backend with float64 sums, within the error budget."""
    actual = column_energy(x, documents, count, backend=backend)
    exact = per_document(x.double().square(), documents, count)
    assert actual.dtype == torch.promote_types(x.dtype, torch.float32)
    assert_within_budget("column_energy", actual, OPERATORS["column_energy"].reference()(x, documents, count), exact)


@examples
@given(st.data(), document_counts, layouts, st.integers(0, 99))
def test_equals_the_sum_over_each_document(backend, data, count, layout, seed):
    length, dtype = data.draw(token_counts(backend)), data.draw(st.sampled_from(dtypes(backend)))
    x = matrix(seed, length, data.draw(widths(backend)), dtype, layout)
    with any_block_size(data, backend):
        check(x, document_ids(seed, length, count), count, backend)


def test_without_indices_all_tokens_are_one_document(backend):
    x = matrix(0, 50, 63, torch.float32)
    assert_within_budget(
        "column_energy", column_energy(x, backend=backend)[0], x.square().sum(0), x.double().square().sum(0)
    )


@pytest.mark.parametrize("documents", ["one", "taking turns"])
def test_long_documents_keep_their_digits(backend, documents):
    x = matrix(0, long_length(backend, 200_000), 3, torch.float32) + 3
    ids = torch.zeros(len(x), dtype=torch.int64) if documents == "one" else torch.arange(len(x)) % 2
    exact = per_document(x.double().square(), ids, 2)
    actual = column_energy(x, ids, 2, backend=backend)
    if backend != "torch":
        torch.testing.assert_close(actual.double(), exact, rtol=1e-6, atol=0)
    assert_within_budget("column_energy", actual, OPERATORS["column_energy"].reference()(x, ids, 2), exact)


def test_nan_and_infinity_stay_in_their_document(backend):
    x = torch.ones(6, 40)
    x[1, 3], x[4, 39] = torch.nan, torch.inf
    energy = column_energy(x, torch.tensor([0, 0, 0, 1, 1, 1]), 2, backend=backend)
    assert energy[0, 3].isnan() and energy[1, 39].isinf()
    assert energy.isfinite().sum() == energy.numel() - 2


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_on_a_gpu_an_index_out_of_range_is_padding(backend, unchecked_values):
    ids = torch.tensor([0, 7, 2, -2, -(2**40), 2**32, 1])
    x = torch.arange(1.0, 8)[:, None].expand(-1, 40)
    assert column_energy(x, ids, 2, backend=backend).tolist() == [[1.0] * 40, [49.0] * 40]


def test_padding_and_empty_input_sum_to_zero(backend):
    for length in (0, 5):
        x, ids = torch.full((length, 63), torch.nan), torch.full((length,), -1)
        assert not column_energy(x, ids, 2, backend=backend).any()
        assert column_energy(x, ids, 0, backend=backend).shape == (0, 63)


@pytest.mark.parametrize(
    "x, documents",
    [
        (torch.ones(3), None),
        (torch.ones(2, 3), torch.zeros(3, dtype=torch.int64)),
        (torch.ones(2, 3), torch.zeros(2)),
        (torch.ones(2, 3).int(), None),
    ],
)
def test_wrong_arguments_are_refused(x, documents):
    with pytest.raises(ValueError, match="must be"):
        column_energy(x, documents, 1)


def test_the_number_of_threads_changes_no_bit(backend, two_threads):
    if backend == "triton":
        pytest.skip("Triton kernels do not use CPU threads")
    x, ids = matrix(0, 500, 1000, torch.float32), document_ids(0, 500, 3)
    two = column_energy(x, ids, 3, backend=backend)
    torch.set_num_threads(1)
    assert torch.equal(two, column_energy(x, ids, 3, backend=backend))


def test_is_a_torch_operator_and_compiles():
    args = (matrix(0, 9, 5, torch.float32), document_ids(0, 9, 2), 2)
    torch.library.opcheck(torch.ops.pymultiling.column_energy.default, args)
    compiled = torch.compile(lambda *a: column_energy(*a) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*args), column_energy(*args) + 1)
