"""Calls whose results differed once. Each stays here with what was wrong."""

from __future__ import annotations

from tests.ops.fuzz.cases import Case, Centred, Columns, Ffn, Gram, Mask, Nearest, Normed, Qk, Value, WholeNorm
from tests.ops.fuzz.tensors import Numbers

FOUND: list[Case] = [
    # The scale is 0 as a float: C++ replaced infinities instead of multiplying them.
    Mask(tokens=2, width=17, sets=1, scale=1e-50, numbers=Numbers(2, kind="infinite")),
    # Values that are a row of x changed while C++ and Triton kernels wrote x.
    Mask("mask_neurons_", tokens=5, width=17, sets=1, scale=2.0, values="a row of x"),
    # PyTorch could not select a set where there is none, although no token selects one.
    Mask(tokens=5, width=3, sets=0),
    Ffn(sets=0),
    # PyTorch could not infer the number of heads of a weight without rows.
    Gram(rows=0),
    # Sums of equal numbers lost more digits than the budget allows: all additions rounded in the same direction.
    Gram(rows=130, kv_heads=1, group=3, size=4, numbers=Numbers(1, kind="equal", layout="transposed", factor=4)),
    # PyTorch missed neighbours of points of very different magnitudes.
    Nearest(17, size=1, k=1, metric="euclidean", numbers=Numbers(2832, "bfloat16", "wide", "transposed", -30)),
    Nearest(64, size=2, k=1, copies=5, numbers=Numbers(546, kind="wide", layout="column stride", factor=12)),
    # Attention scores of 1e30 round by more than 1, so that A' of the C++ kernels overflowed to NaN.
    Qk(length=5, scale=1e30),
    Qk(length=5, scale=1e30, rotated=None, growth="both"),
    Qk(size=1, rotated=2, growth="queries", scale=1e30, length=16, numbers=Numbers(242, "bfloat16")),
    Qk("qk_estimate", size=1, rotated=2, growth="queries", scale=1e30, length=15, numbers=Numbers(242, "bfloat16")),
    # Changes of 1e30 round by more than 1. Where their difference to the largest was 0, C++ took them for no change.
    Qk(
        kv_heads=1,
        group=1,
        length=2,
        size=2,
        rotated=None,
        scale=1e30,
        sinks=200.0,
        numbers=Numbers(537, kind="integers"),
    ),
    # Under a low soft cap equal changes are left, which change A beside a sink by less than their rounding does.
    Qk(kv_heads=1, length=2, size=1, rotated=None, plain=False, softcap=0.001, sinks=200.0),
    # A soft cap of 1e6 rounded attention scores to multiples of 0.06 in C++ and Triton kernels.
    Qk(length=2, size=1, rotated=None, plain=False, softcap=1e6),
    Qk("qk_estimate", length=2, size=1, rotated=None, plain=False, softcap=1e6),
    # Scores of 400 soft caps: their change overflowed.
    Qk(size=3, rotated=None, plain=False, softcap=50.0, numbers=Numbers(kind="integers", factor=2)),
    # Equal keys leave nothing but rounding errors of a change that is 0.
    Qk(length=17, size=4, numbers=Numbers(kind="equal")),
    # Triton took a score of -inf for a hidden key, and left out rows of a single key, and infinite changes under a cap.
    Qk(length=2, size=2, rotated=None, plain=False, numbers=Numbers(3, kind="infinite")),
    Qk(length=2, size=2, rotated=None, window=1, numbers=Numbers(3, kind="infinite")),
    Qk("qk_estimate", length=2, size=2, rotated=None, softcap=2.0, numbers=Numbers(3, kind="infinite")),
    # Zeros times an infinite gram: of other pairs of heads and of documents without tokens in C++, of tokens of other
    # documents in Triton.
    Value(tokens=5, count=3, gram_kind="infinite", numbers=Numbers(1)),
    Value(tokens=0, count=1, gram_kind="infinite"),
    Normed(tokens=5, count=3, weight_kind="infinite", numbers=Numbers(1)),
    # Terms cancel to half their size. The comparison divided by the result, not by the terms.
    Normed(
        tokens=5,
        kv_heads=1,
        group=2,
        size=17,
        outputs=130,
        count=1,
        numbers=Numbers(50, "bfloat16", layout="expanded", factor=-3),
    ),
    # C++ read an output whose rows are not contiguous as if they were.
    Normed(tokens=17, kv_heads=1, group=1, size=1, count=1, numbers=Numbers(0, "bfloat16", layout="transposed")),
    # Two columns of a neuron nearly cancel, which the comparison took for precise.
    Normed(tokens=17, kv_heads=1, group=2, size=8, count=1, numbers=Numbers(layout="expanded")),
    # Under a low soft cap equal keys change nothing but rounding errors, however the inputs round.
    Qk(length=16, size=1, rotated=None, plain=False, softcap=0.001, numbers=Numbers(kind="equal")),
    Qk("qk_estimate", length=15, size=1, rotated=None, plain=False, softcap=0.001, numbers=Numbers(kind="equal")),
    Qk(
        "qk_estimate",
        batch=2,
        group=1,
        length=15,
        size=20,
        rotated=None,
        plain=False,
        scale=1e6,
        numbers=Numbers(kind="equal"),
    ),
    # Under a soft cap an infinite change of a score was taken for a finite one.
    Qk(
        "qk_estimate",
        batch=2,
        kv_heads=2,
        group=1,
        length=2,
        size=4,
        rotated=None,
        softcap=0.001,
        numbers=Numbers(1669, kind="infinite"),
    ),
    # The comparison asked for the one of NaN and -inf, for counts of numbers that the interpreter lets underflow, and
    # for the NaN of float64 where float32 has a number.
    Ffn(tokens=1, width=16, count=0, activation="gelu_tanh", numbers=Numbers(0, "float16", kind="wide")),
    Ffn(tokens=5, width=16, count=1, gated=False, numbers=Numbers(1, "bfloat16", kind="wide", factor=-30)),
    Columns("active_count", tokens=17, width=2, count=1, numbers=Numbers(1, "bfloat16", kind="special")),
    Qk(length=5, size=4, rotated=4, window=3, scale=1e30, numbers=Numbers(kind="equal")),
    Qk("qk_estimate", length=5, size=4, rotated=4, window=3, scale=1e30, numbers=Numbers(kind="equal")),
    # Plain PyTorch divided by 0 where the changes of all scores, without their mean, were rounding errors of 1e14.
    Qk(size=2, length=16, rotated=2, scale=1e30, numbers=Numbers(0, "bfloat16", "equal")),
    Qk("qk_estimate", size=2, length=16, rotated=2, scale=1e30, numbers=Numbers(0, "bfloat16", "equal")),
    # The comparison asked the interpreter for an infinity in the squares of a product that is rounded to bfloat16.
    Ffn(tokens=1, width=16, count=1, gated=True, activation="silu", numbers=Numbers(612, "bfloat16", "special")),
    # A key has almost all of a query's attention. C++ and Triton lost the digits of what it loses in logarithms.
    Qk("qk_estimate", length=2, size=32, rotated=None, growth="both"),
    Qk("qk_estimate", length=2, size=32, rotated=None, growth="both", scale=2.0, numbers=Numbers(1)),
    Qk("qk_estimate", length=3, size=32, rotated=None, growth="both", scale=2.0, numbers=Numbers(2)),
    # The comparison asked for the NaN of 0 times an infinity, where C++ has digits of gelu(-9).
    Ffn(tokens=130, width=16, count=0, activation="gelu", numbers=Numbers(1, kind="infinite", factor=4)),
    Ffn(tokens=130, width=16, count=0, activation="gelu_tanh", numbers=Numbers(1, kind="infinite", factor=4)),
    # Scores of 1e6 round by 0.06: the comparison asked for digits of probabilities that float32 has not.
    Qk(
        "qk_estimate",
        batch=1,
        kv_heads=2,
        group=1,
        length=16,
        size=40,
        rotated=None,
        valid="some",
        scale=1e6,
        softcap=1e6,
        numbers=Numbers(778, kind="integers", layout="row stride"),
    ),
    # Beside sinks of 300 the exact results are subnormal numbers, by which the comparison divided.
    *(
        Qk(
            operator,
            batch=1,
            kv_heads=1,
            group=2,
            length=1,
            size=1,
            rotated=None,
            plain=False,
            sinks=200.0,
            numbers=Numbers(128, factor=-12),
        )
        for operator in ("qk_importance", "qk_estimate")
    ),
    # Beside a sink of -271 a single key has A = 1 up to 1e-118. C++ rounded A, whose square is 1e-23.
    Qk(batch=1, kv_heads=1, group=1, length=1, size=3, rotated=None, growth="both", sinks=200.0, numbers=Numbers(4782)),
    # All changes of a query's scores are equal, so that float32 has rounding errors of 1e-38 and less of their effect.
    *(
        WholeNorm(kv_heads=1, length=17, size=1, group=2, rescale=1e-12, scale=scale, numbers=numbers)
        for scale, numbers in ((0.5, Numbers(kind="equal")), (1e-30, Numbers()))
    ),
    WholeNorm(length=2, size=2, rescale=1e-12, numbers=Numbers(factor=2)),
    # Plain PyTorch gave 0 where a key that has no probability gets all of it: its A was 0 in the power series.
    WholeNorm(batch=2, group=1, length=2, size=1, rescale=30.0, numbers=Numbers(factor=2)),
    # The changes of mean, deviation and own dimension almost cancel in a query's scores.
    Centred(group=3, length=2, size=3, rotated=2, numbers=Numbers(1)),
]
