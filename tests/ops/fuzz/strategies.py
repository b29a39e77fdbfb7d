"""What the fuzz draws: a strategy for the cases of each operator that has kernels."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from pymultiling.ops.arguments import ACTIVATIONS, METRICS
from tests.ops.fuzz.cases import Case, Centred, Columns, Ffn, Gram, Mask, Nearest, Normed, Qk, Value, WholeNorm
from tests.ops.fuzz.tensors import DTYPES, FINITE_KINDS, KINDS, LAYOUTS, Numbers

FACTORS = (0, 0, 0, -30, -12, 4, 12, 18, 30)  # powers of ten
# Attention scores of finite numbers must fit in float32, and products of two numbers: value_energy and value_gram add
# products before they weigh them.
HEAD_KINDS, HEAD_FACTORS = ("normal", "normal", "integers", "equal", "zero", "infinite"), (0, 0, 0, -12, 2)
VALUE_KINDS, VALUE_FACTORS = ("normal", "normal", "integers", "equal", "zero", "infinite"), (0, 0, 0, -30, -12, 4, 12)

tokens = st.sampled_from([0, 1, 2, 5, 17, 64, 70, 130])
widths = st.sampled_from([0, 1, 2, 3, 7, 16, 17, 33, 64, 65, 129])
head_sizes = st.sampled_from([1, 2, 3, 4, 8, 12, 17, 20, 32, 40])
counts = st.integers(0, 4)
kv_heads, groups = st.integers(1, 3), st.integers(1, 4)
grouped = st.sampled_from(["no", "yes", "in order"])


def numbers(kinds: tuple[str, ...] = KINDS, factors: tuple[int, ...] = FACTORS) -> st.SearchStrategy[Numbers]:
    """Returns a strategy for the numbers of a case."""
    return st.builds(
        Numbers,
        seed=st.integers(0, 10_000),
        dtype=st.sampled_from(DTYPES),
        kind=st.sampled_from(kinds),
        layout=st.sampled_from(LAYOUTS),
        factor=st.sampled_from(factors),
    )


def columns(operator: str) -> st.SearchStrategy[Case]:
    return st.builds(
        Columns,
        operator=st.just(operator),
        tokens=tokens,
        width=widths,
        count=counts,
        grouped=grouped,
        numbers=numbers(),
    )


def mask(operator: str) -> st.SearchStrategy[Case]:
    return st.builds(
        Mask,
        operator=st.just(operator),
        tokens=tokens,
        width=widths,
        sets=st.integers(0, 3),
        scale=st.sampled_from([0.0, 1.0, -2.5, 0.3, 1e-50, 1e-30, 1e30, 1e300]),
        values=st.sampled_from([None, "own", "a row of x"]),
        numbers=numbers(),
    )


def qk(operator: str, lengths: list[int]) -> st.SearchStrategy[Case]:
    return st.builds(
        Qk,
        operator=st.just(operator),
        batch=st.integers(0, 2),
        kv_heads=st.integers(1, 2),
        group=st.integers(1, 3),
        length=st.sampled_from(lengths),
        size=head_sizes,
        rotated=st.sampled_from([None, 0, 2, 4, 40]),
        tables=st.sampled_from(["float32", "bfloat16", "float64"]),
        tables_per_document=st.booleans(),
        interleaved=st.booleans(),
        plain=st.booleans(),
        growth=st.sampled_from([None, "both", "keys", "queries"]),
        valid=st.sampled_from(["all", "some", "none"]),
        scale=st.sampled_from([0.5, 0.0, -0.2, 1e-30, 1e6, 1e30]),
        window=st.sampled_from([None, 1, 3, 2**40]),
        softcap=st.sampled_from([None, 1e-3, 0.1, 2.0, 50.0, 1e6]),
        sinks=st.sampled_from([None, None, 0.0, 3.0, 200.0, 1e6, math.inf]),
        causal=st.sampled_from([True, True, False]),
        bias=st.sampled_from([None, None, 0.0, 3.0, 300.0]),
        numbers=numbers(HEAD_KINDS, HEAD_FACTORS),
    )


STRATEGIES: dict[str, st.SearchStrategy[Case]] = {
    "active_count": columns("active_count"),
    "column_energy": columns("column_energy"),
    "gated_ffn": st.builds(
        Ffn,
        tokens=tokens,
        width=widths,
        count=counts,
        grouped=grouped,
        gated=st.booleans(),
        activation=st.sampled_from(ACTIVATIONS),
        sets=st.sampled_from([None, 0, 1, 3]),
        numbers=numbers(),
    ),
    "mask_neurons": mask("mask_neurons"),
    "mask_neurons_": mask("mask_neurons_"),
    "value_energy": st.builds(
        Value,
        tokens=tokens,
        kv_heads=kv_heads,
        group=groups,
        size=head_sizes,
        count=counts,
        grouped=grouped,
        gram_kind=st.sampled_from(["normal", "integers", "zero", "infinite"]),
        numbers=numbers(VALUE_KINDS, VALUE_FACTORS),
    ),
    "value_gram": st.builds(
        Gram,
        rows=tokens,
        kv_heads=kv_heads,
        group=groups,
        size=head_sizes,
        numbers=numbers(VALUE_KINDS, VALUE_FACTORS),
    ),
    "normed_energy": st.builds(
        Normed,
        tokens=tokens,
        kv_heads=kv_heads,
        group=groups,
        size=head_sizes,
        outputs=st.sampled_from([40, 130]),
        columns=st.booleans(),
        count=counts,
        grouped=grouped,
        weight_kind=st.sampled_from(["normal", "normal", "infinite"]),
        numbers=numbers(("normal", "integers", "zero"), (0, 0, 0, -12, -3, 1)),
    ),
    "centred_importance": st.builds(
        Centred,
        batch=st.integers(0, 2),
        kv_heads=st.integers(1, 2),
        group=st.integers(1, 3),
        length=st.sampled_from([0, 1, 2, 5, 17, 40]),
        size=head_sizes,
        own_norms=st.booleans(),
        rotated=st.sampled_from([None, 0, 2, 4, 40]),
        interleaved=st.booleans(),
        valid=st.sampled_from(["all", "some", "none"]),
        scale=st.sampled_from([0.5, 0.0, -0.2, 1e-30]),
        window=st.sampled_from([None, 1, 3, 2**40]),
        softcap=st.sampled_from([None, None, 0.1, 2.0, 50.0]),
        numbers=numbers(("normal", "normal", "integers", "equal", "zero"), (0, 0, 0, -12, 2)),
    ),
    "whole_norm_importance": st.builds(
        WholeNorm,
        batch=st.integers(0, 2),
        kv_heads=st.integers(1, 3),
        group=st.integers(1, 3),
        length=st.sampled_from([0, 1, 2, 5, 17, 40, 70]),
        size=head_sizes,
        rescale=st.sampled_from([0.0, 1e-12, 1e-5, 1e-3, 0.03, 1.0, 30.0]),
        own=st.booleans(),
        valid=st.sampled_from(["all", "some", "none"]),
        scale=st.sampled_from([0.5, 0.0, -0.2, 1e-30]),
        window=st.sampled_from([None, 1, 3, 2**40]),
        softcap=st.sampled_from([None, None, 0.1, 2.0, 50.0]),
        numbers=numbers(HEAD_KINDS, HEAD_FACTORS),
    ),
    "nearest_neighbors": st.builds(
        Nearest,
        count=st.sampled_from([2, 3, 17, 64, 70]),
        size=st.sampled_from([1, 2, 3, 16, 33]),
        k=st.integers(1, 16),
        metric=st.sampled_from(METRICS),
        copies=st.sampled_from([1, 1, 2, 5]),
        numbers=numbers(FINITE_KINDS),
    ),
    "qk_importance": qk("qk_importance", [0, 1, 2, 5, 16, 17]),
    # Queries that see 16 keys or fewer have no draws, which rounding could move to another key.
    "qk_estimate": qk("qk_estimate", [0, 1, 2, 5, 15, 16]),
}
