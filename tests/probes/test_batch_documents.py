"""The documents of a batch are grouped once in a forward, and are the same on every device."""

from unittest import mock

import pytest
import torch

from pymultiling.probes import batch_documents
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.batch_documents import BatchDocuments
from pymultiling.probes.importance import ImportanceProbe
from tests.support.tiny_models import tiny_model

CPU, META = torch.device("cpu"), torch.device("meta")
MASK = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]])


def test_every_row_of_a_batch_is_a_document():
    documents = BatchDocuments.of_rows(MASK.bool()).on(CPU)
    assert documents.ids.tolist() == [0, 0, 0, -1, -1, -1, -1, -1, -1, 2, 2, 2]
    assert documents.offsets.tolist() == [0, 3, 3, 6]
    assert documents.order.tolist() == [0, 1, 2, 9, 10, 11, 3, 4, 5, 6, 7, 8]


def test_rows_without_padding_are_in_order():
    documents = BatchDocuments.of_rows(torch.ones(3, 4, dtype=torch.bool), is_full=True).on(CPU)
    assert documents.ids.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert documents.offsets.tolist() == [0, 4, 8, 12] and documents.order is None


@pytest.mark.parametrize("is_full", [False, True])
def test_documents_are_moved_to_a_device_once(is_full):
    batch = BatchDocuments.of_rows(torch.ones(3, 4, dtype=torch.bool) if is_full else MASK.bool(), is_full=is_full)
    moved = batch.on(META)
    tensors = [x for x in (moved.ids, moved.offsets, moved.order) if x is not None]
    assert {x.device for x in tensors} == {META} and moved.count == 3
    assert batch.on(META) is moved and batch.on(CPU).ids.device == CPU


@pytest.mark.parametrize("fused", [False, True])
def test_a_forward_groups_its_tokens_once(fused):
    model = tiny_model("llama")
    ids = torch.arange(12).view(3, 4)
    with mock.patch.object(batch_documents, "group_tokens", wraps=batch_documents.group_tokens) as group:
        with ImportanceProbe(model, fused=fused) as probe:
            probe.measure(ids, MASK | 1)
        assert group.call_count == 1
        ActivationProbe(model).measure(ids, MASK | 1, MASK.bool())
        assert group.call_count == 2
