"""value_energy and value_gram on every backend against the change of the output, and products of columns."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pymultiling.ops import value_energy, value_gram
from pymultiling.ops.registry import OPERATORS
from tests.support.error_budget import assert_within_budget
from tests.support.operator_inputs import (
    document_counts,
    document_ids,
    dtypes,
    examples,
    layouts,
    long_length,
    matrix,
    per_document,
    token_counts,
)


def squared_output_change(attention, weight, kv_heads, size):
    """Returns the squared change of o_proj's output without each value neuron, (tokens, K d) float64."""
    a = attention.double().view(-1, kv_heads, attention.shape[1] // (kv_heads * size), 1, size)
    w = weight.double().view(len(weight), kv_heads, -1, size).permute(1, 2, 0, 3)
    return (a * w).sum(2).square().sum(2).flatten(1)


def check(attention, weight, kv_heads, size, documents, count, backend):
    """Compares the result of a backend with the change of the output, within the error budget."""
    gram = value_gram(weight, kv_heads, size)
    actual = value_energy(attention, gram, documents, count, backend=backend)
    exact = per_document(squared_output_change(attention, weight, kv_heads, size), documents, count)
    assert actual.dtype == torch.promote_types(attention.dtype, torch.float32)
    assert_within_budget(
        "value_energy", actual, OPERATORS["value_energy"].reference()(attention, gram, documents, count), exact
    )


@examples
@given(
    st.data(), st.integers(1, 3), st.integers(1, 5), st.sampled_from([1, 3, 16, 17, 40]), document_counts, layouts,
    st.integers(0, 99),
)  # fmt: skip
def test_equals_the_change_of_the_output(backend, data, kv_heads, group, size, count, layout, seed):
    length, dtype = data.draw(token_counts(backend)), data.draw(st.sampled_from(dtypes(backend)))
    attention = matrix(seed, length, kv_heads * group * size, dtype, layout)
    weight = matrix(seed + 1, 30, kv_heads * group * size, torch.promote_types(dtype, torch.float32))
    check(attention, weight, kv_heads, size, document_ids(seed, length, count), count, backend)


@pytest.mark.parametrize("group", [8, 9])
def test_equals_the_change_if_many_query_heads_share_a_key_head(backend, group):
    """Triton kernels keep gram in registers for up to 8 heads, so both of their branches run."""
    attention, weight = matrix(0, 20, group * 3, torch.float32), matrix(1, 30, group * 3, torch.float32)
    check(attention, weight, 1, 3, document_ids(0, 20, 2), 2, backend)


@examples
@given(
    st.data(), st.integers(1, 3), st.integers(1, 5), st.sampled_from([1, 3, 16, 17, 40]), layouts, st.integers(0, 99)
)  # fmt: skip
def test_gram_contains_the_products_of_columns(backend, data, kv_heads, group, size, layout, seed):
    if backend == "triton":
        pytest.skip("there is no Triton kernel: PyTorch computes it on a GPU")
    weight = matrix(seed, 30, kv_heads * group * size, data.draw(st.sampled_from(dtypes(backend))), layout)
    gram = value_gram(weight, kv_heads, size, backend=backend)
    columns = weight.double().T.view(kv_heads, group, size, -1).transpose(1, 2)
    exact = columns @ columns.transpose(-1, -2)
    # The terms of a product of different columns may cancel, so errors are relative to the product of their lengths.
    lengths = columns.norm(dim=-1)
    length_products = lengths[..., None] * lengths[..., None, :]
    assert gram.dtype == torch.promote_types(weight.dtype, torch.float32) and gram.is_contiguous()
    assert ((gram - exact).abs() <= OPERATORS["value_gram"].budget.floor * length_products).all()


def test_a_long_document_keeps_its_digits(backend):
    attention = matrix(0, long_length(backend, 200_000), 2 * 3, torch.float32) + 1
    check(attention, matrix(1, 8, 6, torch.float32), 1, 3, torch.zeros(len(attention), dtype=torch.int64), 1, backend)


def test_nan_stays_in_its_neuron(backend):
    attention = torch.ones(4, 2 * 2 * 5)
    attention[2, 1 * 10 + 5 + 3] = torch.nan  # key head 1, its second query head, j = 3
    energy = value_energy(attention, torch.ones(2, 5, 2, 2), backend=backend)
    assert energy.isnan().nonzero().tolist() == [[0, 1 * 5 + 3]]


def test_an_infinite_gram_makes_its_neuron_infinite_where_there_are_tokens(backend):
    """Two heads of a key head. Zeros beside the tokens, times infinity, are no part of the sum."""
    gram, ids = torch.ones(2, 5, 2, 2), torch.tensor([0, 2, 2, -1])
    gram[1, 3] = torch.inf
    energy = value_energy(torch.ones(4, 2 * 2 * 5), gram, ids, 4, backend=backend)
    expected = 4.0 * torch.tensor([1, 0, 2, 0])[:, None].expand(-1, 10)
    expected[[0, 2], 5 + 3] = torch.inf
    assert torch.equal(energy, expected)


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_on_a_gpu_an_index_out_of_range_is_padding(backend, unchecked_values):
    ids, gram = torch.tensor([0, 7, 2, -2, 2**32, 1]), torch.ones(1, 3, 2, 2)
    energy = value_energy(torch.arange(1.0, 7)[:, None].expand(-1, 6), gram, ids, 2, backend=backend)
    assert energy.tolist() == [[4.0] * 3, [144.0] * 3]


def test_padding_and_empty_input_sum_to_zero(backend):
    for length in (0, 5):
        attention, ids = torch.full((length, 6), torch.nan), torch.full((length,), -1)
        assert not value_energy(attention, torch.ones(1, 3, 2, 2), ids, 2, backend=backend).any()
        assert value_energy(attention, torch.ones(1, 3, 2, 2), ids, 0, backend=backend).shape == (0, 3)


def test_a_gram_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="gram must be"):
        value_energy(torch.ones(2, 6), torch.ones(2, 3, 2, 2))


def test_the_number_of_threads_changes_no_bit(backend, two_threads):
    if backend == "triton":
        pytest.skip("Triton kernels do not use CPU threads")
    attention, gram, ids = matrix(0, 300, 4 * 3 * 20, torch.float32), torch.rand(4, 20, 3, 3), document_ids(0, 300, 3)
    two = value_energy(attention, gram, ids, 3, backend=backend)
    torch.set_num_threads(1)
    assert torch.equal(two, value_energy(attention, gram, ids, 3, backend=backend))


def test_is_a_torch_operator_and_compiles():
    args = (matrix(0, 9, 12, torch.float32), torch.rand(2, 3, 2, 2), document_ids(0, 9, 2), 2)
    torch.library.opcheck(torch.ops.pymultiling.value_energy.default, args)
    compiled = torch.compile(lambda *a: value_energy(*a) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*args), value_energy(*args) + 1)
