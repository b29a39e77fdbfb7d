"""group_tokens: the tokens of each document, against a loop over the tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pymultiling.ops import Documents, column_energy, group_tokens, normed_energy


def tokens_by_document(documents: Documents) -> list[list[int]]:
    """Returns the tokens of each document, and last those of no document, as offsets and order give them."""
    order = torch.arange(len(documents.ids)) if documents.order is None else documents.order
    return [part.tolist() for part in order.tensor_split(documents.offsets[1:].tolist())]


def expected(ids: list[int], count: int) -> list[list[int]]:
    """Returns the same lists, by the definition."""
    lists = [[t for t, c in enumerate(ids) if c == document] for document in range(count)]
    return [*lists, [t for t, c in enumerate(ids) if not 0 <= c < count]]


@settings(deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([*range(-2, 7), 2**32, -(2**40)]), max_size=30), st.integers(0, 5))
def test_every_document_has_its_tokens_in_the_order_of_the_batch(ids, count):
    documents = group_tokens(torch.tensor(ids, dtype=torch.int64), count)
    assert tokens_by_document(documents) == expected(ids, count)
    assert documents.ids.tolist() == ids and documents.count == count
    assert documents.offsets.dtype == documents.order.dtype == torch.int32
    assert documents.offsets.shape == (count + 1,) and documents.order.shape == (len(ids),)


@pytest.mark.parametrize("ids", [[], [0], [0, 0, 1, 3], [0, 2, 2, -1, 9, -5], [-1, 4]])
def test_tokens_in_the_order_of_their_documents_need_no_order(ids):
    ids = torch.tensor(ids, dtype=torch.int64)
    documents = group_tokens(ids, 4, in_order=True)
    assert documents.order is None
    assert tokens_by_document(documents) == tokens_by_document(group_tokens(ids, 4))


@pytest.mark.parametrize("ids", [torch.zeros(2, 2).long(), torch.zeros(2), torch.zeros(2, dtype=torch.int32)])
def test_ids_of_another_shape_or_dtype_are_refused(ids):
    with pytest.raises(ValueError, match=r"ids must be int64 \(tokens,\)"):
        group_tokens(ids, 1)


def test_a_negative_number_of_documents_is_refused():
    with pytest.raises(ValueError, match="count not negative"):
        group_tokens(torch.zeros(2, dtype=torch.int64), -1)


def test_another_number_of_documents_than_the_grouped_ones_is_refused():
    documents = group_tokens(torch.tensor([0, 1]), 2)
    assert column_energy(torch.ones(2, 3), documents, 2).shape == (2, 3)
    with pytest.raises(ValueError, match="count must be None or that of documents"):
        column_energy(torch.ones(2, 3), documents, 3)
    with pytest.raises(ValueError, match=r"documents must be \(4,\)"):
        column_energy(torch.ones(4, 3), documents)


def test_an_operator_without_kernels_takes_grouped_tokens():
    x, weight, ids = torch.randn(5, 3), torch.randn(4, 3), torch.tensor([1, 0, -1, 1, 0])
    gram = torch.ones(3, 1, 1, 1)
    arguments = (x, x @ weight.T, weight, torch.ones(4), gram, gram, 1e-6)
    grouped, plain = normed_energy(*arguments, group_tokens(ids, 2)), normed_energy(*arguments, ids, 2)
    assert torch.equal(grouped.energy, plain.energy)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_nothing_waits_for_the_gpu():
    ids = torch.tensor([1, 0, -1, 7, 1], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        documents = group_tokens(ids, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert tokens_by_document(Documents(ids.cpu(), 2, documents.offsets.cpu(), documents.order.cpu())) == [
        [1],
        [0, 4],
        [2, 3],
    ]
