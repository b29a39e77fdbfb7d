"""Device functions of qk_estimate: the sums over the slots of one row. A thread computes one neuron.

t (SLOTS, LANES) is the change of the attention scores times log2(e). A constant may be added to t. The weights w come
from qk_slots.py. With v = 2^t,

    f = sum_j w A (v / Z - 1)^2,  Z = sum_j w v

and the same from the even and from the odd draws alone, f_a and f_b. A sink adds its probability times 2^t to Z, where
its t is 0 before a constant is added. It is in none of the other sums.
"""

import triton
import triton.language as tl

from pymultiling.triton_kernels.qk_slots import (
    ABOVE,
    BELOW,
    CELL,
    CUT,
    EVEN,
    EVEN_A,
    LOG2_A,
    LOG2_EVEN,
    LOG2_ODD,
    ODD,
    ODD_A,
    SLOTS,
)
from pymultiling.triton_kernels.qk_sweep import ROWS, capped_change, change_of_weight, exp2_minus_1

# Formulas of `change`
SHORT = tl.constexpr(0)  # few instructions; 2^t - 1 has an error of up to 2^-22, which averages out over keys and rows
FEW = tl.constexpr(1)  # for rows of at most SLOTS keys, from which nothing is drawn: keeps the digits of small t
CAREFUL = tl.constexpr(2)  # for any t

LARGEST_EXPONENT = tl.constexpr(30.0)  # largest |t| of SHORT and FEW: beyond it the fourth power of 2^t overflows
SMALLEST_MEAN = tl.constexpr(-0.5)  # of m in each half, so that 1 + m keeps its digits
# If |t| is below this for all rows and neurons, SHORT loses digits in all of them.
SMALLEST_EXPONENT = tl.constexpr(0.125)
# Smallest ratio of the Z from half of the draws to Z: below it the error loses digits.
SMALLEST_HALF = tl.constexpr(1.0 / 64)


@triton.jit
def _with_sink(reach, log2_sink, t_sink, LIMIT: tl.constexpr):
    """Returns the largest |t|, (LANES,): that of the keys, or that of the sink if it is above LIMIT."""
    size = tl.where(log2_sink > -float("inf"), tl.abs(t_sink), 0.0)
    return tl.where(size > LIMIT, tl.maximum(size, reach), reach)


@triton.jit
def _row(t, spot, squares, log2_sink, t_sink, SINKS: tl.constexpr):
    """Returns a row's importance, the square of its error, and the largest |t|, (LANES,) each, by the short formula.

    The largest |t| is infinite if digits were lost. The sums of the two halves are computed with the Z of all draws and
    then corrected. With e = Z_a - Z,

        sum w A (v - Z_a)^2 = sum w A (v - Z)^2 - 2 e sum w A (v - Z) + e^2 sum w A

    t (SLOTS, LANES) is the change of the attention scores. spot (SLOTS,) are pointers to the row's slots. squares is
    the pointer to the row's sum of w A for the even draws, see `square_sums`. With SINKS log2_sink is log2 of the
    probability of the sink, and t_sink (LANES,) is its t.
    """
    reach = tl.max(tl.abs(t), 0)
    v = tl.exp2(t)
    even_z = tl.sum(tl.load(spot + EVEN * CELL)[:, None] * v, 0)
    odd_z = tl.sum(tl.load(spot + ODD * CELL)[:, None] * v, 0)
    if SINKS:
        # If only the sink's t is large, the sums lose no digits unless it is too large for them.
        reach = _with_sink(reach, log2_sink, t_sink, LARGEST_EXPONENT)
        sink = tl.exp2(log2_sink + t_sink)
        even_z += sink
        odd_z += sink
    z = (even_z + odd_z) / 2.0
    v -= z[None, :]
    even_a, odd_a = tl.load(spot + EVEN_A * CELL)[:, None], tl.load(spot + ODD_A * CELL)[:, None]
    e = even_z - z
    even = tl.sum(even_a * (v * v), 0)
    odd = tl.sum(odd_a * (v * v), 0)
    importance = (even + odd) / (2.0 * z * z)
    even += e * (e * tl.load(squares) - 2.0 * tl.sum(even_a * v, 0))
    odd += e * (e * tl.load(squares + ROWS) + 2.0 * tl.sum(odd_a * v, 0))
    half = (even / (even_z * even_z) - odd / (odd_z * odd_z)) / 2.0
    is_uneven = tl.minimum(even_z, odd_z) < SMALLEST_HALF * z
    return importance, half * half, tl.where(is_uneven, float("inf"), reach)


@triton.jit
def _finite_or_nan(mean):
    """Returns the mean of t, or NaN if it is infinite: then t and the importance become NaN, and `reach` skips them."""
    return mean + 0.0 * mean


@triton.jit
def _few_keys_row(t, spot, log2_sink, SINKS: tl.constexpr):
    """Returns what `_row` returns, for a row of at most SLOTS keys.

    All of them are certain: w = A, and the error is 0, or NaN if the importance is. With u = 2^t - 1,
    f = sum_j (w (u - m) / (1 + m))^2, m = sum_j w u. u and u - m have the digits of small t. The weighted mean of t is
    subtracted first, so that m is not negative and 1 + m keeps its digits.
    """
    w = tl.load(spot + EVEN * CELL)[:, None]
    mean = _finite_or_nan(tl.sum(w * t, 0))
    t -= mean[None, :]
    u = exp2_minus_1(t)
    m = tl.sum(w * u, 0)
    if SINKS:
        m += change_of_weight(log2_sink, -mean, log2_sink - mean)
    change = w * (u - m[None, :])
    z = 1.0 + m
    importance = tl.sum(change * change, 0) / (z * z)
    error = 0.0 * importance
    reach = tl.max(tl.abs(t), 0)
    if SINKS:
        reach = _with_sink(reach, log2_sink, -mean, 0.0)
    return importance, error, reach


@triton.jit
def _squared_change(u, w, wa, sink_change, SINKS: tl.constexpr):
    """Returns f from u = 2^t - 1: sum_j w A (u - m)^2 / (1 + m)^2, m = sum_j w u. wa: w A.

    With SINKS sink_change (LANES,) is the sink's part of m.
    """
    m = tl.sum(w[:, None] * u, 0)
    if SINKS:
        m += sink_change
    change = (u - m[None, :]) * (1.0 / (1.0 + m))[None, :]
    return tl.sum(wa[:, None] * (change * change), 0)


@triton.jit
def _large_change(t, log2_w, log2_a, sink_exponent, SINKS: tl.constexpr):
    """Returns f from logarithms: sum_j A / w (p - w)^2, p = softmax(log w + t).

    With SINKS sink_exponent (LANES,) is log w + t of the sink, which is one more term of the softmax.
    """
    top = tl.max(t + log2_w[:, None], 0)
    if SINKS:
        top = tl.maximum(top, sink_exponent)
    total = tl.sum(tl.exp2(t + log2_w[:, None] - top[None, :]), 0)
    if SINKS:
        total += tl.exp2(sink_exponent - top)
    log2_total = tl.log2(total)
    exponent = t + log2_w[:, None] - top[None, :] - log2_total[None, :]
    change = change_of_weight(log2_w[:, None], t - (top + log2_total)[None, :], exponent)
    ratio = tl.where(log2_w == -float("inf"), 0.0, tl.exp2(log2_a - log2_w))
    return tl.sum(ratio[:, None] * (change * change), 0)


@triton.jit
def _careful_row(t, spot, log2_sink, SINKS: tl.constexpr):
    """Returns what `_row` returns, but correct for any t.

    Logarithms of large scores have lost digits, so that neurons whose sums need no logarithms keep them.
    """
    even, odd = tl.load(spot + EVEN * CELL), tl.load(spot + ODD * CELL)
    even_a, odd_a = tl.load(spot + EVEN_A * CELL), tl.load(spot + ODD_A * CELL)
    w = (even + odd) / 2.0
    mean = _finite_or_nan(tl.sum(w[:, None] * t, 0))
    t -= mean[None, :]
    u = exp2_minus_1(t)
    largest = tl.max(t, 0)
    least_m = tl.minimum(tl.sum(even[:, None] * u, 0), tl.sum(odd[:, None] * u, 0))
    sink_change = log2_sink
    if SINKS:
        sink_change = change_of_weight(log2_sink, -mean, log2_sink - mean)
        largest = tl.maximum(largest, -mean)
        least_m += sink_change
    fits = (largest <= LARGEST_EXPONENT) & (least_m > SMALLEST_MEAN)
    importance = _squared_change(u, w, (even_a + odd_a) / 2.0, sink_change, SINKS)
    even_change = _squared_change(u, even, even_a, sink_change, SINKS)
    odd_change = _squared_change(u, odd, odd_a, sink_change, SINKS)
    if tl.min(fits.to(tl.int32), 0) == 0:
        log2_a = tl.load(spot + LOG2_A * CELL)
        log2_even, log2_odd = tl.load(spot + LOG2_EVEN * CELL), tl.load(spot + LOG2_ODD * CELL)
        log2_w = tl.maximum(log2_even, log2_odd) - (log2_even != log2_odd).to(tl.float32)
        sink_exponent = log2_sink - mean
        importance = tl.where(fits, importance, _large_change(t, log2_w, log2_a, sink_exponent, SINKS))
        even_change = tl.where(fits, even_change, _large_change(t, log2_even, log2_a, sink_exponent, SINKS))
        odd_change = tl.where(fits, odd_change, _large_change(t, log2_odd, log2_a, sink_exponent, SINKS))
    half = (even_change - odd_change) / 2.0
    return importance, half * half, tl.max(tl.abs(t), 0)


@triton.jit
def _first_slot(t):
    """Returns t[0], as a sum over slots of t or 0. The sum is of integers: then the compiler removes the zeros."""
    slot = tl.arange(0, SLOTS)[:, None]
    return tl.sum(tl.where(slot == 0, t.to(tl.int32, bitcast=True), 0), 0).to(tl.float32, bitcast=True)


@triton.jit
def change(t, spot, squares, softcap, CAPPED: tl.constexpr, SINKS: tl.constexpr, FORMULA: tl.constexpr):
    """Returns a row's importance, the square of its error, and the largest |t|, (LANES,) each.

    SHORT is only correct if the largest |t| is at least SMALLEST_EXPONENT for some neuron and at most LARGEST_EXPONENT
    for all, and FEW if it is at most LARGEST_EXPONENT for all.

    Args:
        t: (SLOTS, LANES), the change of the attention scores before the cap, times log2(e).
        spot: pointers to the row's slots, (SLOTS,).
        squares: pointer to the row's sum of w A for the even draws, see `square_sums`.
        softcap: soft cap of the attention scores, used if CAPPED.
        CAPPED: whether there is a soft cap.
        SINKS: whether there is a sink.
        FORMULA: SHORT, FEW or CAREFUL.
    """
    if CAPPED:
        below, above = tl.load(spot + BELOW * CELL)[:, None], tl.load(spot + ABOVE * CELL)[:, None]
        t = capped_change(t, below, above, tl.load(spot + CUT * CELL)[:, None], softcap) + 0.0 * t  # an infinite t: NaN
    log2_sink = 0.0
    if SINKS:
        log2_sink = tl.load(squares + 2 * ROWS)  # see `sink_logs`
    if FORMULA == SHORT:
        first = _first_slot(t)
        return _row(t - first[None, :], spot, squares, log2_sink, -first, SINKS)
    if FORMULA == FEW:
        return _few_keys_row(t, spot, log2_sink, SINKS)
    return _careful_row(t, spot, log2_sink, SINKS)
