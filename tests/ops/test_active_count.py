"""active_count on every backend against the counts of each document."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pymultiling.ops import active_count, gated_ffn
from tests.support.operator_inputs import (
    any_block_size,
    document_counts,
    document_ids,
    dtypes,
    examples,
    is_interpreted,
    layouts,
    long_length,
    matrix,
    per_document,
    token_counts,
    widths,
)


def check(x, documents, count, backend):
    """Compares the counts of a backend with those of one document after another."""
    actual = active_count(x, documents, count, backend=backend)
    assert actual.dtype == torch.int64
    assert torch.equal(actual, per_document((x.double() > 0).double(), documents, count).long())


@examples
@given(st.data(), document_counts, layouts, st.integers(0, 99))
def test_equals_the_count_of_each_document(backend, data, count, layout, seed):
    length, dtype = data.draw(token_counts(backend)), data.draw(st.sampled_from(dtypes(backend)))
    x = matrix(seed, length, data.draw(widths(backend)), dtype, layout)
    with any_block_size(data, backend):
        check(x, document_ids(seed, length, count), count, backend)


def test_without_indices_all_tokens_are_one_document(backend):
    x = matrix(0, 50, 63, torch.float32)
    assert torch.equal(active_count(x, backend=backend), (x > 0).sum(0, keepdim=True))


@pytest.mark.parametrize("documents", ["one", "taking turns"])
def test_counts_of_long_documents(backend, documents):
    x = matrix(0, long_length(backend, 200_000), 3, torch.float32) + 3
    ids = torch.zeros(len(x), dtype=torch.int64) if documents == "one" else torch.arange(len(x)) % 2
    check(x, ids, 2, backend)


def test_exactly_the_positive_numbers_are_active(backend):
    """All positive numbers are active, down to the smallest. NaN is not."""
    for dtype in dtypes(backend):
        smallest = torch.finfo(dtype).smallest_normal
        positive = [smallest, 1.0, torch.inf]
        if not (is_interpreted(backend) and dtype == torch.bfloat16):  # the interpreter converts denormals wrongly
            positive += [smallest * torch.finfo(dtype).eps, smallest / 2]  # denormal
        negative = [-number for number in positive]
        for kind, active in (positive, 1), (negative, 0), ([0.0, -0.0, torch.nan, -torch.nan], 0):
            x = torch.tensor(kind, dtype=dtype).repeat(2, 40)
            counts = active_count(x, torch.tensor([1, 1]), 2, backend=backend)
            assert not counts[0].any() and (counts[1] == 2 * active).all(), (dtype, kind)


def test_equals_the_count_of_gated_ffn(backend):
    x, up = matrix(0, 100, 200, torch.float32), matrix(1, 100, 200, torch.float32)
    ids = document_ids(0, 100, 3)
    counts = active_count(x, ids, 3, backend=backend)
    for activation in ("silu", "gelu", "gelu_tanh", "relu"):
        ffn = gated_ffn(x, up, activation=activation, documents=ids, count=3, backend=backend)
        assert torch.equal(counts, ffn.active)


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_on_a_gpu_an_index_out_of_range_is_padding(backend, unchecked_values):
    ids = torch.tensor([0, 7, 2, -2, -(2**40), 2**32, 1, 1])
    assert active_count(torch.ones(8, 40), ids, 2, backend=backend).tolist() == [[1] * 40, [2] * 40]


def test_padding_and_empty_input_count_nothing(backend):
    for length in (0, 5):
        x, ids = torch.ones(length, 63), torch.full((length,), -1)
        counts = active_count(x, ids, 2, backend=backend)
        assert counts.shape == (2, 63) and not counts.any()
        assert active_count(x, ids, 0, backend=backend).shape == (0, 63)


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
        active_count(x, documents, 1)


def test_the_number_of_threads_changes_nothing(backend, two_threads):
    if backend == "triton":
        pytest.skip("Triton kernels do not use CPU threads")
    x, ids = matrix(0, 500, 1000, torch.float32), document_ids(0, 500, 3)
    two = active_count(x, ids, 3, backend=backend)
    torch.set_num_threads(1)
    assert torch.equal(two, active_count(x, ids, 3, backend=backend))


def test_is_a_torch_operator_and_compiles():
    args = (matrix(0, 9, 5, torch.float32), document_ids(0, 9, 2), 2)
    torch.library.opcheck(torch.ops.pymultiling.active_count.default, args)
    compiled = torch.compile(lambda *a: active_count(*a) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*args), active_count(*args) + 1)
