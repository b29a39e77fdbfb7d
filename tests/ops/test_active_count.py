import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pymultiling.ops import active_count, gated_ffn
from tests.support.operator_inputs import (
    block_of_columns,
    counts,
    document_ids,
    dtypes,
    examples,
    interpreted,
    layouts,
    long,
    matrix,
    per_document,
    tokens,
    widths,
)


def check(x, documents, count, backend):
    actual = active_count(x, documents, count, backend=backend)
    assert actual.dtype == torch.int64
    assert torch.equal(actual, per_document((x.double() > 0).double(), documents, count).long())


@examples
@given(st.data(), counts, layouts, st.integers(0, 99))
def test_equals_the_count_of_each_document(backend, data, count, layout, seed):
    length, dtype = data.draw(tokens(backend)), data.draw(st.sampled_from(dtypes(backend)))
    x = matrix(seed, length, data.draw(widths(backend)), dtype, layout)
    with block_of_columns(data, backend):
        check(x, document_ids(seed, length, count), count, backend)


def test_one_document_without_ids(backend):
    x = matrix(0, 50, 63, torch.float32)
    assert torch.equal(active_count(x, backend=backend), (x > 0).sum(0, keepdim=True))


@pytest.mark.parametrize("documents", ["one", "taking turns"])
def test_long_documents(backend, documents):
    x = matrix(0, long(backend, 200_000), 3, torch.float32) + 3
    ids = torch.zeros(len(x), dtype=torch.int64) if documents == "one" else torch.arange(len(x)) % 2
    check(x, ids, 2, backend)


def test_every_kind_of_number(backend):
    """Of them the positive ones count, down to the smallest; NaN does not."""
    for dtype in dtypes(backend):
        smallest = torch.finfo(dtype).smallest_normal
        positive = [smallest, 1.0, torch.inf]
        if not (interpreted(backend) and dtype == torch.bfloat16):  # of which Triton's interpreter makes other float32
            positive += [smallest * torch.finfo(dtype).eps, smallest / 2]  # denormal
        negative = [-number for number in positive]
        for kind, active in (positive, 1), (negative, 0), ([0.0, -0.0, torch.nan, -torch.nan], 0):
            x = torch.tensor(kind, dtype=dtype).repeat(2, 40)
            found = active_count(x, torch.tensor([1, 1]), 2, backend=backend)
            assert not found[0].any() and (found[1] == 2 * active).all(), (dtype, kind)


def test_the_count_of_gated_ffn(backend):
    x, up = matrix(0, 100, 200, torch.float32), matrix(1, 100, 200, torch.float32)
    ids = document_ids(0, 100, 3)
    found = active_count(x, ids, 3, backend=backend)
    for activation in ("silu", "gelu", "gelu_tanh", "relu"):
        ffn = gated_ffn(x, up, activation=activation, documents=ids, count=3, backend=backend)
        assert torch.equal(found, ffn.active)


def test_an_id_out_of_range_is_refused(backend):
    if backend == "triton":
        pytest.skip("a GPU's ids are not waited for")
    for wrong in (7, 2, -2):
        with pytest.raises((IndexError, RuntimeError)):
            active_count(torch.ones(2, 3), torch.tensor([0, wrong]), 2, backend=backend)


@pytest.mark.parametrize("wrong", [-2, 2])
def test_kernels_refuse_the_nearest_wrong_ids(backend, wrong):
    if backend != "cpp":
        pytest.skip("the reference takes negative ids and `count` for padding, and so does a GPU")
    with pytest.raises(IndexError, match=f"token 1 has document {wrong}, there are 2"):
        active_count(torch.ones(2, 3), torch.tensor([0, wrong]), 2, backend=backend)


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_on_a_gpu_an_id_out_of_range_is_padding(backend):
    ids = torch.tensor([0, 7, 2, -2, -(2**40), 2**32, 1, 1])
    assert active_count(torch.ones(8, 40), ids, 2, backend=backend).tolist() == [[1] * 40, [2] * 40]


def test_padding_and_no_tokens(backend):
    for length in (0, 5):
        x, ids = torch.ones(length, 63), torch.full((length,), -1)
        found = active_count(x, ids, 2, backend=backend)
        assert found.shape == (2, 63) and not found.any()
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
def test_wrong_arguments(x, documents):
    with pytest.raises(ValueError):
        active_count(x, documents, 1)


def test_threads_change_nothing(backend, two_threads):
    if backend == "triton":
        pytest.skip("not on threads of the CPU")
    x, ids = matrix(0, 500, 1000, torch.float32), document_ids(0, 500, 3)
    two = active_count(x, ids, 3, backend=backend)
    torch.set_num_threads(1)
    assert torch.equal(two, active_count(x, ids, 3, backend=backend))


def test_registered_as_a_torch_operator():
    args = (matrix(0, 9, 5, torch.float32), document_ids(0, 9, 2), 2)
    torch.library.opcheck(torch.ops.pymultiling.active_count.default, args)
    compiled = torch.compile(lambda *a: active_count(*a) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*args), active_count(*args) + 1)
