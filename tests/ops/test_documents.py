"""Every operator that sums over documents gives the same bits for document indices and for grouped tokens."""

import dataclasses

import pytest
import torch

from pymultiling.ops import (
    Documents,
    active_count,
    column_energy,
    gated_ffn,
    group_tokens,
    normed_energy,
    value_energy,
)
from tests.support.operator_inputs import document_ids, mask_sets, matrix, per_document

COUNT, TOKENS, WIDTH = 5, 60, 24
LENGTHS = torch.tensor([[12], [7], [0], [1], [9]])
PLACES, DOCUMENT_ROWS = torch.arange(12), torch.arange(COUNT)[:, None]
IDS = {
    "padded on the right": torch.where(PLACES < LENGTHS, DOCUMENT_ROWS, -1).flatten(),
    "padded on the left": torch.where(PLACES >= 12 - LENGTHS, DOCUMENT_ROWS, -1).flatten(),
    "scattered": torch.arange(TOKENS) * 7 % 6 - 1,
    "in runs": document_ids(0, TOKENS, COUNT),
    "in order": torch.tensor([0] * 20 + [1] * 3 + [3] * 30 + [-1] * 7),
    "no document": torch.full((TOKENS,), -1),
}


def results(operator: str, documents: Documents | torch.Tensor, backend: str, rows: torch.Tensor) -> list[torch.Tensor]:
    """Returns the results of an operator for the rows `rows` of fixed inputs."""
    device = torch.get_default_device()
    x, up = (matrix(seed, TOKENS, WIDTH, torch.float32)[rows] for seed in (0, 1))
    options = {"documents": documents, "count": COUNT, "backend": backend}
    if operator == "gated_ffn":
        masks, mask_ids = (mask.to(device) for mask in mask_sets(0, TOKENS, WIDTH))
        return list(gated_ffn(x, up, **options, masks=masks, mask_ids=mask_ids[rows]))
    if operator == "value_energy":
        torch.manual_seed(2)
        return [value_energy(x, torch.rand(3, 4, 2, 2), **options)]
    if operator == "normed_energy":
        output, weight = matrix(3, TOKENS, 7, torch.float32)[rows], matrix(4, 7, WIDTH, torch.float32)
        grams = torch.ones(2, 3, 4, 2, 2)
        return list(normed_energy(x, output, weight, torch.ones(7), *grams, 1e-6, **options, columns=True))
    return [{"active_count": active_count, "column_energy": column_energy}[operator](x, **options)]


each_operator = pytest.mark.parametrize(
    "operator", ["active_count", "column_energy", "gated_ffn", "normed_energy", "value_energy"]
)


@each_operator
@pytest.mark.parametrize("kind", IDS)
def test_grouped_tokens_give_the_bits_of_document_indices(backend, operator, kind):
    rows, ids = torch.arange(TOKENS), IDS[kind].to(torch.get_default_device())
    from_ids = results(operator, ids, backend, rows)
    assert all(map(torch.equal, from_ids, results(operator, group_tokens(ids, COUNT), backend, rows)))


@each_operator
@pytest.mark.parametrize("kind", IDS)
def test_the_order_of_the_batch_changes_no_bit_of_the_sums(backend, operator, kind):
    """Rows that are moved into the order of their documents are the case without `order`."""
    if backend in ("torch", "cpp"):
        pytest.skip("only Triton's kernels read the order; the sums of others depend on where a document's tokens lie")
    ids = IDS[kind].to(torch.get_default_device())
    grouped = group_tokens(ids, COUNT)
    rows = grouped.order.long()
    moved = group_tokens(ids[rows], COUNT, in_order=True)
    assert torch.equal(moved.offsets, grouped.offsets)
    expected = results(operator, grouped, backend, torch.arange(TOKENS))
    expected = [x[rows] if len(x) == TOKENS else x for x in expected]  # hidden has a row for each token
    assert all(map(torch.equal, expected, results(operator, moved, backend, rows)))


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_kernels_read_offsets_and_order_not_the_indices(backend):
    """A batch with padding of one side, whose indices are overwritten after they were grouped."""
    ids = IDS["padded on the right"].to(torch.get_default_device())
    documents = dataclasses.replace(group_tokens(ids, COUNT), ids=torch.full_like(ids, 4))
    x = matrix(0, TOKENS, WIDTH, torch.float32)
    energy = column_energy(x, documents, backend=backend)
    torch.testing.assert_close(energy, per_document(x.square(), ids, COUNT))
