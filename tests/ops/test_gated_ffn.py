"""gated_ffn on every backend against its formula in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from pymultiling.ops import gated_ffn
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
    mask_sets,
    matrix,
    per_document,
    token_counts,
    widths,
)

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # from NumPy in Triton's interpreter

ACTIVATIONS = {
    "silu": lambda x: x * torch.sigmoid(x),
    "gelu": lambda x: x * torch.special.ndtr(x),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": lambda x: x.clamp(min=0),
}


def formula(gate, up, activation, documents, count, masks, mask_ids):
    """Returns hidden, squares, active and magnitude in float64 (active in int64). The arguments are the reference's."""
    gate, up = gate.double(), None if up is None else up.double()
    activated = ACTIVATIONS[activation](gate)
    linear = gate if up is None else up
    hidden = activated if up is None else activated * up
    if masks is not None:
        on = torch.ones_like(gate, dtype=torch.bool)
        for t, i in enumerate(mask_ids.tolist()):
            if i >= 0:
                on[t] = ~masks[i]
        hidden, activated, linear = (torch.where(on, x, 0.0) for x in (hidden, activated, linear))
    return (
        hidden,
        per_document(hidden.square(), documents, count),
        per_document((activated > 0).long(), documents, count),
        per_document(linear.abs(), documents, count),
    )


def check(gate, up, activation, documents, count, masks, mask_ids, backend):
    """Compares the results of a backend with the formula, within the error budget."""
    plain = OPERATORS["gated_ffn"].reference()(gate, up, activation, documents, count, masks, mask_ids)
    exact = formula(gate, up, activation, documents, count, masks, mask_ids)
    actual = gated_ffn(
        gate,
        up,
        activation=activation,
        documents=documents,
        count=count,
        masks=masks,
        mask_ids=mask_ids,
        backend=backend,
    )
    assert [x.dtype for x in actual] == [x.dtype for x in plain]
    assert_within_budget("gated_ffn", actual.hidden, plain[0], exact[0], result="hidden")
    assert_within_budget("gated_ffn", actual.squares, plain[1], exact[1])
    assert torch.equal(actual.active, exact[2])
    assert_within_budget("gated_ffn", actual.magnitude, plain[3], exact[3])


@examples
@given(
    st.data(), st.sampled_from(sorted(ACTIVATIONS)), st.booleans(), st.booleans(), document_counts, layouts,
    st.integers(0, 99)
)  # fmt: skip
def test_equals_the_formula(backend, data, activation, gated, masked, count, layout, seed):
    length, width = data.draw(token_counts(backend)), data.draw(widths(backend))
    dtype = data.draw(st.sampled_from(dtypes(backend)))
    gate = 3 * matrix(seed, length, width, dtype, layout)
    up = matrix(seed + 1, length, width, dtype, layout) if gated else None
    masks, mask_ids = mask_sets(seed, length, width) if masked else (None, None)
    with any_block_size(data, backend):
        check(gate, up, activation, document_ids(seed, length, count), count, masks, mask_ids, backend)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_equal_the_formula_over_their_whole_range(backend, activation):
    gate = torch.linspace(-12, 12, 20_001).view(59, 339)
    check(gate, None, activation, torch.zeros(len(gate), dtype=torch.int64), 1, None, None, backend)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_extreme_values_equal_the_formula(backend, activation):
    gate = torch.tensor(
        [[torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-40, 1e30, -1e30, 88.8, -88.8, -104.0, 1e38]]
    ).T
    if backend == "torch" and activation == "gelu":
        gate = gate[2:]  # PyTorch's vectorised gelu(inf) is NaN
    ids = torch.zeros(len(gate), dtype=torch.int64)
    actual = gated_ffn(gate, torch.full_like(gate, 0.5), activation=activation, backend=backend)
    hidden, _, active, _ = formula(gate, torch.full_like(gate, 0.5), activation, ids, 1, None, None)
    torch.testing.assert_close(actual.hidden.double(), hidden, rtol=1e-6, atol=1e-36, equal_nan=True)
    assert torch.equal(actual.active, active)
    assert not actual.squares.isfinite().any()


def test_masked_nan_is_zero(backend):
    gate = torch.full((3, 20), torch.nan)
    masks, ids = torch.ones(1, 20, dtype=torch.bool), torch.zeros(3, dtype=torch.int64)
    for x in gated_ffn(gate, gate, masks=masks, mask_ids=ids, backend=backend):
        assert not x.any()


def test_a_long_document_keeps_its_digits(backend):
    gate = matrix(0, long_length(backend, 100_000), 2, torch.float32) + 2
    check(gate, gate, "silu", torch.zeros(len(gate), dtype=torch.int64), 1, None, None, backend)


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_on_a_gpu_an_index_out_of_range_is_padding_or_no_mask(backend, unchecked_values):
    gate, masks = torch.ones(5, 70), torch.ones(2, 70, dtype=torch.bool)
    wrong = {"documents": [0, 7, 2, -2, 1], "mask_ids": [2, -2, 2**32, 0, 1]}
    known = {"documents": [0, -1, -1, -1, 1], "mask_ids": [-1, -1, -1, 0, 1]}
    actual, expected = (
        gated_ffn(gate, gate, count=2, masks=masks, **{k: torch.tensor(v) for k, v in ids.items()}, backend=backend)
        for ids in (wrong, known)
    )
    assert all(map(torch.equal, actual, expected))
    assert actual.hidden.any(1).tolist() == [True, True, True, False, False]


def test_padding_has_a_hidden_product_but_no_statistics(backend):
    gate = torch.ones(5, 63)
    for count in (0, 2):
        hidden, *statistics = gated_ffn(gate, documents=torch.full((5,), -1), count=count, backend=backend)
        assert torch.equal(hidden, gated_ffn(gate, backend=backend).hidden) and hidden.all()
        for x in statistics:
            assert x.shape == (count, 63) and not x.any()


@pytest.mark.parametrize(
    "wrong", [{"activation": "tanh"}, {"up": torch.ones(2, 4)}, {"masks": torch.ones(1, 3).bool()}]
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must|is not one of"):
        gated_ffn(torch.ones(2, 3), **wrong)


def test_the_number_of_threads_changes_no_bit(backend, two_threads):
    if backend == "triton":
        pytest.skip("Triton kernels do not use CPU threads")
    if backend == "torch":
        pytest.skip(
            "PyTorch's vectorised activations differ from its scalar ones, and the number of threads decides which run"
        )
    gate, ids = matrix(0, 300, 1000, torch.float32), document_ids(0, 300, 3)
    two = gated_ffn(gate, gate, documents=ids, count=3, backend=backend)
    torch.set_num_threads(1)
    one = gated_ffn(gate, gate, documents=ids, count=3, backend=backend)
    assert all(map(torch.equal, one, two))


def test_is_a_torch_operator_and_compiles():
    gate, up, ids = matrix(0, 9, 5, torch.float32), matrix(1, 9, 5, torch.float32), document_ids(0, 9, 2)
    args = (gate, up, "silu", ids, 2, *mask_sets(0, 9, 5))
    torch.library.opcheck(torch.ops.pymultiling.gated_ffn.default, args)
    compiled = torch.compile(lambda *a: torch.ops.pymultiling.gated_ffn(*a), fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(*args), torch.ops.pymultiling.gated_ffn(*args)))
