"""The work of plain forwards, against the sizes of the weights and of single operations."""

from dataclasses import replace

import pytest

from benchmarks.machine_code.forward_work import work_of_forward
from benchmarks.operators.shapes import GEMMA_4B, LLAMA_31_8B, Shape

DOCUMENTS = 2


@pytest.mark.parametrize("shape", [LLAMA_31_8B, GEMMA_4B], ids=lambda shape: shape.name)
def test_the_products_are_those_of_the_weights_and_of_attention(shape: Shape):
    """Two operations for each token and weight, and 2 products of half of the pairs of tokens, of all heads."""
    shape = replace(shape, layers=2)
    tokens = DOCUMENTS * shape.length
    weights = shape.hidden * (2 * shape.mixed + 2 * shape.kv_heads * shape.head_size + 3 * shape.ffn)
    of_attention = 2 * 2 * tokens * shape.length / 2 * shape.mixed
    operations = sum(operations for operations, _ in work_of_forward(shape, DOCUMENTS).products)
    # The tables of the rotation are a product too, of less than 1e-4.
    assert operations == pytest.approx(shape.layers * (2 * tokens * weights + of_attention), rel=1e-4)


def test_the_bytes_of_other_operations_grow_with_the_width_of_the_ffn():
    """A layer reads and writes five numbers of two bytes for each neuron: it applies silu, and multiplies by up."""
    layer = replace(LLAMA_31_8B, layers=1)
    wider = replace(layer, ffn=layer.ffn + 16)
    more = work_of_forward(wider, DOCUMENTS).bytes - work_of_forward(layer, DOCUMENTS).bytes
    assert more == 5 * 2 * 16 * DOCUMENTS * layer.length
