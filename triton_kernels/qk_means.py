"""First passes of qk_importance over the keys: the softmax of the rows, and the means under A by which t is shifted.

A part of t that all keys share does not change a softmax, but it costs float32 digits. So t is shifted by its mean. The
means are computed like the output of attention, with keys as values, on tensor cores. They are stored in the program's
scratch memory. From there a thread reads the means of its neuron and of the neuron's partner.
"""

import triton
import triton.language as tl

from pymultiling.triton_kernels.qk_sweep import (
    ROWS,
    cap_parts,
    infinite_to_nan,
    log2_add,
    product,
    score_tile,
    to_int64,
)

VALUES = tl.constexpr(32)  # keys of a tile: with 64, registers spill on sm_90


@triton.jit
def _rounded(product, BIASED: tl.constexpr):
    """Returns a product that is not fused with the sum over keys that follows, if BIASED.

    The layout of biases spreads the keys of a row over threads, which add each other's products. If each fused its own
    product with the addition, their sums would differ in the last bit.
    """
    if BIASED:
        return tl.maximum(product, -3.0e38, propagate_nan=tl.PropagateNan.ALL)
    return product


@triton.jit
def softmax(
    q, log2_sink, rows, dims, Key, Valid, Bias, Means, first, last, size, length, window, scale, softcap, skew,
    LANES: tl.constexpr, KEY_STRIDE: tl.constexpr, CAPPED: tl.constexpr, SINKS: tl.constexpr, CAUSAL: tl.constexpr,
    BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Stores the means of the keys under A, E_A[k'] (ROWS, LANES), in Means.

    Returns log2 of the softmax's denominator, log2 of the keys' part of it, sum_j A^2, the number of terms of the
    softmax, and the mean E_A[S] of the attention scores before the cap, (ROWS,) each. The first three are NaN where a
    score is infinite. With a soft cap the means are weighted by A times the slope of the cap. A sink is a term of the
    softmax and is 0 in the means.
    """
    running_max = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    squares = tl.zeros((ROWS,), tl.float32)
    weights = tl.zeros((ROWS,), tl.float32)
    score = tl.zeros((ROWS,), tl.float32)
    counts = tl.zeros((ROWS,), tl.int32)
    mean = tl.zeros((ROWS, LANES), tl.float32)
    for start in tl.range(first, last, VALUES):
        keys, _is_valid, raw, scores, visible = score_tile(
            q, Key, Valid, Bias, start, rows, dims, size, length, window, scale, softcap, VALUES, KEY_STRIDE, CAPPED,
            CAUSAL, BIASED, PRECISION,
        )  # fmt: skip
        scores = infinite_to_nan(scores, raw, visible)
        peak = tl.maximum(running_max, tl.max(scores, 0))
        base = tl.where(peak == -float("inf"), 0.0, peak)
        p = tl.exp2(scores - base[None, :])
        fade = tl.exp2(running_max - base)
        running_max = peak
        total = total * fade + tl.sum(p, 0)
        squares = squares * fade * fade + tl.sum(_rounded(p * p, BIASED), 0)
        counts += tl.sum((scores != -float("inf")).to(tl.int32), 0)
        p = _weigh_by_slope(p, raw, softcap, CAPPED)
        score = score * fade + tl.sum(_rounded(p * raw, BIASED), 0)
        weight = p.to(keys.dtype)
        weights = weights * fade + tl.sum(weight.to(tl.float32), 0)
        mean = mean * fade[:, None] + product(tl.trans(weight), keys, PRECISION)
    if SINKS:
        log2_keys = running_max + tl.log2(total)
        log2_sum = log2_add(log2_keys, log2_sink)
        share = tl.exp2(log2_keys - log2_sum)
        total, weights = total / share, weights / share
        counts += (log2_sink > -float("inf")).to(tl.int32)
    norm = total if CAPPED else weights  # a rounding error of the weights that all keys share cancels
    _store_mean(Means, 0, mean / norm[:, None], dims + skew, LANES)
    if not SINKS:
        log2_keys = running_max + tl.log2(total)
        log2_sum = log2_keys
    return log2_sum, log2_keys, squares / (total * total), counts, score / total


@triton.jit
def key_means(
    q, log2_sum, log2_keys, rows, dims, sign, Key, Plain, Growth, Cos, Sin, Valid, Bias, Means,
    first, last, size, turned, length, window, scale, softcap, skew,
    LANES: tl.constexpr, KEY_STRIDE: tl.constexpr, PLAIN_STRIDE: tl.constexpr, GROWTH_STRIDE: tl.constexpr,
    TABLE_STRIDE: tl.constexpr, FAR: tl.constexpr, KEY_GROWTH: tl.constexpr, CAPPED: tl.constexpr, SINKS: tl.constexpr,
    CAUSAL: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Stores the means under A of the parts of t for key neurons in Means, (ROWS, LANES) each.

    The parts are what key neuron n contributes to k'[n] and to k'[p], where p is n's partner, and the effect of the
    growth, growth S.
    """
    near = tl.zeros((ROWS, LANES), tl.float32)
    far = tl.zeros((ROWS, LANES), tl.float32)
    grow = tl.zeros((ROWS, LANES), tl.float32)
    weights = tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for start in tl.range(first, last, VALUES):
        keys, is_valid, raw, scores, _visible = score_tile(
            q, Key, Valid, Bias, start, rows, dims, size, length, window, scale, softcap, VALUES, KEY_STRIDE, CAPPED,
            CAUSAL, BIASED, PRECISION,
        )  # fmt: skip
        p = tl.exp2(scores - log2_keys[None, :])  # not A, which may be 0 for all keys beside a sink
        total += tl.sum(p, 0)
        p = _weigh_by_slope(p, raw, softcap, CAPPED)
        weight = p.to(keys.dtype)
        weights += tl.sum(weight.to(tl.float32), 0)
        weight = tl.trans(weight)
        inside = is_valid[:, None] & (dims < size)[None, :]
        v = tl.arange(0, VALUES)[:, None]
        x = tl.load(
            Plain + to_int64(start) * PLAIN_STRIDE + v * PLAIN_STRIDE + dims[None, :], mask=inside, other=0.0
        ).to(tl.float32)
        if KEY_GROWTH:
            growth = tl.load(
                Growth + to_int64(start) * GROWTH_STRIDE + v * GROWTH_STRIDE + dims[None, :], mask=inside, other=0.0
            )
            x *= 1.0 + growth
            weight_s = tl.trans((p * raw).to(keys.dtype))
            grow += product(weight_s, growth.to(keys.dtype), PRECISION)
        if FAR:
            inside = is_valid[:, None] & (dims < turned)[None, :]
            z = tl.load(
                Sin + to_int64(start) * TABLE_STRIDE + v * TABLE_STRIDE + dims[None, :], mask=inside, other=0.0
            ).to(tl.float32)
            w = x * sign[None, :] * z
            far += product(weight, w.to(keys.dtype), PRECISION)
            x *= tl.load(
                Cos + to_int64(start) * TABLE_STRIDE + v * TABLE_STRIDE + dims[None, :], mask=inside, other=1.0
            ).to(tl.float32)
        near += product(weight, x.to(keys.dtype), PRECISION)
    if SINKS:
        share = tl.exp2(log2_keys - log2_sum)
        total, weights = total / share, weights / share
    norm = (total if CAPPED else weights)[:, None]
    _store_mean(Means, 0, near / norm, dims + skew, LANES)
    if FAR:
        _store_mean(Means, 1, far / norm, dims + skew, LANES)
    if KEY_GROWTH:
        _store_mean(Means, 2, grow / norm, dims + skew, LANES)
    tl.debug_barrier()


@triton.jit
def _store_mean(Means, slot: tl.constexpr, mean, neuron, LANES: tl.constexpr):
    """Stores `mean` (ROWS, LANES) as array `slot` of Means, with barriers before and after it."""
    tl.debug_barrier()  # all threads have read the mean that is overwritten
    tl.store(Means + slot * ROWS * LANES + tl.arange(0, ROWS)[:, None] * LANES + neuron[None, :], mean)
    tl.debug_barrier()  # the mean is complete before other threads read it


@triton.jit
def _weigh_by_slope(p, raw, softcap, CAPPED: tl.constexpr):
    """Multiplies p by the soft cap's slope at each key's attention score."""
    if CAPPED:
        below, above, _cut = cap_parts(raw, softcap)
        p *= 4.0 * below * above
    return p
