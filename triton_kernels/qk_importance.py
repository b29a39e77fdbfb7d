"""qk_importance: how much each query and key neuron changes the attention probabilities, in one launch.

    importance[n] = sum_ij (A'_ij - A_ij)^2,   A = softmax(S),   A' = softmax(S + y_n)      (arXiv 2402.18815, eq. 9-11)

y_n is the change of the attention scores S when neuron n is zeroed. One sweep over the attention scores is enough for
each neuron. With t = log2(e) y, shifted so that m is small, and v = A (2^t - 1),

    m = sum_j v,  b0 = sum_j A^2,  b1 = sum_j A v,  b2 = sum_j v^2
    sum_j (A' - A)^2 = (b2 - 2 m b1 + m^2 b0) / (1 + m)^2

q, q_plain, q_growth (B, H, l, d); k, k_plain, k_growth (B, K, l, d); cos, sin (B or 1, l, r). The results are (B, H d)
and (B, K d) float32.

A program works on ROWS query rows of a head at a time. It reads the keys once for the softmax of the rows and for the
mean of t under A, by which t is shifted (qk_means.py), and once for the query neurons and once for the key neurons
(qk_sweep.py). The importance of the rows is stored in Partial. The last program to finish with a key head adds up all
of its rows in a fixed order, so that the result is the same bit for bit every time. Attention scores, probabilities,
exponentials and sums stay on the multiprocessor.

An attention sink is one more key in m, whose t is 0 before the shift, but in none of the other sums.

float32 keeps its digits while m is small and nothing overflows. Otherwise the rows are swept again: with a shift that
makes m small, or from logarithms.
"""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.triton_kernels.qk_heads import (
    PER_CALL,
    Heads,
    item_of,
    log2_sink_of,
    pair,
    variants_of,
)
from pymultiling.triton_kernels.qk_means import key_means, softmax
from pymultiling.triton_kernels.qk_sweep import (
    ARRAYS,
    CAREFUL,
    LOG2_E,
    ONLINE,
    POWER,
    ROWS,
    change_of_weight,
    sweep,
    to_int64,
)
from pymultiling.triton_kernels.variant import Variant

# 2^t has an error of 2^-23. So the relative error of a neuron's importance is about 2^-22 / |t|, divided by the root of
# the number of keys and rows.
#
# Up to this many keys errors do not average out, and the sums are computed from logarithms at once. This takes 2% of
# the time at 512 tokens.
FEW_KEYS = tl.constexpr(32)
# If the largest change of a tile is below this, 2^t - 1 loses digits in all neurons. The change of a row by a neuron is
# the root of b2 / b0.
SMALLEST_CHANGE = tl.constexpr(1.0 / 16)
# Largest ratio of b2 to the numerator of the result. A ratio of 100 costs float32 two of its seven digits.
LARGEST_CANCELLATION = tl.constexpr(100.0)
LARGEST_MEAN = tl.constexpr(1e15)  # of m, whose square is finite. Without a sink it is at most the root of b2 / b0.


@triton.jit
def _squared_change(m, b0, b1, b2):
    """Returns sum_j (A' - A)^2 from the sums of a sweep."""
    change = (b2 - 2.0 * m * b1 + m * m * b0) / ((1.0 + m) * (1.0 + m))
    return tl.where(change < 0, 0.0, change)  # rounding may leave less than 0; NaN stays


@triton.jit
def _site_importance(
    near, far, grow, shift, q, log2_sum, log2_sink, squares, key_counts, rows, dims, neuron, partner, sign,
    Key, Plain, Growth, Cos, Sin, Valid, Bias, Scratch,
    first, last, size, turned, length, window, scale, softcap,
    KEY_STRIDE: tl.constexpr, PLAIN_STRIDE: tl.constexpr, GROWTH_STRIDE: tl.constexpr, TABLE_STRIDE: tl.constexpr,
    KEYS: tl.constexpr, OF_KEYS: tl.constexpr, FAR: tl.constexpr, ROW_GROWTH: tl.constexpr, KEY_GROWTH: tl.constexpr,
    CAPPED: tl.constexpr, SINKS: tl.constexpr, CAUSAL: tl.constexpr,
    BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Returns the sum of the rows' importance for each query neuron, or for each key neuron if OF_KEYS, (LANES,).

    near, far, grow and shift (ROWS, LANES) are the coefficients of t, see `sweep`. log2_sink: the score of the head's
    sink times log2(e), used if SINKS. squares (ROWS, 1): sum_j A^2 of a row. key_counts (ROWS, 1): number of terms of
    a row's softmax, -1 for padding.
    """
    is_counted = (key_counts > 1) & (neuron < size)[None, :]  # with one term A' = A = 1
    # An infinite score makes `squares` NaN, and an infinite change makes `shift` infinite or NaN, also with one key.
    nan_or_0 = tl.sum(tl.where((key_counts > 0) & (neuron < size)[None, :], 0.0 * (shift + squares), 0.0), 0)
    change = tl.zeros(near.shape, tl.float32)
    few = (last - first <= FEW_KEYS).to(tl.int32)
    needs_logs = tl.where(is_counted, few, 0) == 1
    is_settled = ~is_counted
    sweeps_left = 2 - 2 * few
    while sweeps_left > 0:
        m, b1, b2 = sweep(
            near, far, grow, shift, shift, shift, q, log2_sum, rows, dims, neuron, partner, sign,
            Key, Plain, Growth, Cos, Sin, Valid, Bias, Scratch,
            first, last, size, turned, length, window, scale, softcap,
            KEY_STRIDE, PLAIN_STRIDE, GROWTH_STRIDE, TABLE_STRIDE, KEYS,
            POWER, OF_KEYS, FAR, ROW_GROWTH, KEY_GROWTH, CAPPED, CAUSAL, BIASED, PRECISION,
        )  # fmt: skip
        is_compared = is_counted
        if SINKS:
            log2_a_sink = (log2_sink - log2_sum)[:, None]
            m += change_of_weight(log2_a_sink, shift, log2_a_sink + shift)
            is_compared &= squares > 0  # beside a sink the squares of all A may be 0
        new_change = _squared_change(m, squares, b1, b2)
        change = tl.where(is_settled, change, new_change)
        largest = tl.max(tl.max(tl.where(is_compared, b2 / squares, 0.0), 1), 0)
        tiny = (largest < SMALLEST_CHANGE * SMALLEST_CHANGE).to(tl.int32)
        fits = (b2 < float("inf")) & (m > -0.5)
        if SINKS:
            fits &= m < LARGEST_MEAN
        needs_logs |= is_counted & (tl.where(fits, tiny, 1) == 1)
        is_settled |= needs_logs | (LARGEST_CANCELLATION * new_change * (1.0 + m) * (1.0 + m) >= b2)
        shift = tl.where(is_settled, shift, shift - tl.log2(1.0 + m))
        sweeps_left = tl.where(tl.min(tl.min(is_settled.to(tl.int32), 1), 0) == 1, 0, sweeps_left - 1)
    if tl.max(tl.max(needs_logs.to(tl.int32), 1), 0) == 1:
        peak, log2_total, b2 = sweep(
            near, far, grow, shift, shift, shift, q, log2_sum, rows, dims, neuron, partner, sign,
            Key, Plain, Growth, Cos, Sin, Valid, Bias, Scratch,
            first, last, size, turned, length, window, scale, softcap,
            KEY_STRIDE, PLAIN_STRIDE, GROWTH_STRIDE, TABLE_STRIDE, KEYS,
            ONLINE, OF_KEYS, FAR, ROW_GROWTH, KEY_GROWTH, CAPPED, CAUSAL, BIASED, PRECISION,
        )  # fmt: skip
        if SINKS:
            log2_a_sink = (log2_sink - log2_sum)[:, None]
            key_peak, sink_peak = peak, log2_a_sink + shift
            peak = tl.maximum(key_peak, sink_peak)
            log2_total = tl.log2(tl.exp2(key_peak - peak + log2_total) + tl.exp2(sink_peak - peak))
        m, b1, b2 = sweep(
            near, far, grow, shift, peak, log2_total, q, log2_sum, rows, dims, neuron, partner, sign,
            Key, Plain, Growth, Cos, Sin, Valid, Bias, Scratch,
            first, last, size, turned, length, window, scale, softcap,
            KEY_STRIDE, PLAIN_STRIDE, GROWTH_STRIDE, TABLE_STRIDE, KEYS,
            CAREFUL, OF_KEYS, FAR, ROW_GROWTH, KEY_GROWTH, CAPPED, CAUSAL, BIASED, PRECISION,
        )  # fmt: skip
        if SINKS:
            exponent = log2_a_sink + shift - peak - log2_total
            m += change_of_weight(log2_a_sink, shift - (peak + log2_total), exponent)
        change = tl.where(needs_logs, _squared_change(m, squares, b1, b2), change)
    return tl.sum(tl.where(is_counted, change, 0.0), 0) + nan_or_0


@triton.jit(do_not_specialize=PER_CALL)
def kernel(
    Query, q_batch, q_head, q_stride: tl.constexpr, Key, k_batch, k_head, k_stride: tl.constexpr,
    QueryPlain, qp_batch, qp_head, qp_stride: tl.constexpr, KeyPlain, kp_batch, kp_head, kp_stride: tl.constexpr,
    QueryGrowth, qg_batch, qg_head, qg_stride: tl.constexpr, KeyGrowth, kg_batch, kg_head, kg_stride: tl.constexpr,
    Cos, Sin, table_batch, table_stride: tl.constexpr, Valid, Sinks, Bias, bias_batch,
    Scratch, Partial, Counters, QueryOut, KeyOut,
    items, tiles, heads, group, length, size, turned, window, scale, softcap, skew,
    LANES: tl.constexpr, KEYS: tl.constexpr, PLAIN: tl.constexpr, FAR: tl.constexpr, INTERLEAVED: tl.constexpr,
    QUERY_GROWTH: tl.constexpr, KEY_GROWTH: tl.constexpr, CAPPED: tl.constexpr, SINKS: tl.constexpr,
    CAUSAL: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    r, dims = tl.arange(0, ROWS), tl.arange(0, LANES)
    # skew is 0, but the compiler does not know it. So it loads tensors (ROWS, LANES) number by number, not as vectors,
    # and each thread has one neuron.
    neuron = dims + skew
    _, dims_sign = pair(dims, turned, INTERLEAVED)
    partner, sign = pair(neuron, turned, INTERLEAVED)
    Scratch += to_int64(tl.program_id(0)) * (ARRAYS * KEYS * ROWS + KEYS + 3 * ROWS * LANES)
    means = Scratch + ARRAYS * KEYS * ROWS + KEYS
    mean_neuron = means + r[:, None] * LANES + neuron[None, :]
    mean_partner = means + r[:, None] * LANES + partner[None, :]
    scale = scale * LOG2_E
    for item in tl.range(tl.program_id(0), items, tl.num_programs(0)):
        tile, b, h, kv, valid, key, key_plain, key_growth, cos, sin, rows, is_valid, first, last = item_of(
            item, items, tiles, heads, group, length, window, Key, k_batch, k_head, KeyPlain, kp_batch, kp_head,
            KeyGrowth, kg_batch, kg_head, Cos, Sin, table_batch, Valid, CAUSAL,
        )  # fmt: skip
        first_row = to_int64(tile) * ROWS
        query = Query + to_int64(b) * q_batch + to_int64(h) * q_head + first_row * q_stride
        q_at = query + r[None, :] * q_stride + dims[:, None]
        q = tl.load(q_at, mask=is_valid[None, :] & (dims < size)[:, None], other=0.0)
        log2_sink = log2_sink_of(Sinks, h, SINKS)
        bias = Bias
        if BIASED:
            bias += to_int64(b) * bias_batch + to_int64(h) * length * length
        log2_sum, log2_keys, squares, key_counts, mean_score = softmax(
            q, log2_sink, rows, dims, key, valid, bias, means, first, last, size, length, window, scale, softcap, skew,
            LANES, k_stride, CAPPED, SINKS, CAUSAL, BIASED, PRECISION,
        )  # fmt: skip
        key_counts = tl.where(is_valid, key_counts, -1)[:, None]
        squares, mean_score = squares[:, None], mean_score[:, None]
        inside = is_valid[:, None] & (neuron < size)[None, :]
        turns = is_valid[:, None] & (neuron < turned)[None, :]
        near = tl.load(query + r[:, None] * q_stride + neuron[None, :], mask=inside, other=0.0).to(tl.float32)
        if PLAIN:
            plain = QueryPlain + to_int64(b) * qp_batch + to_int64(h) * qp_head + first_row * qp_stride
            near = tl.load(plain + r[:, None] * qp_stride + neuron[None, :], mask=inside, other=0.0).to(tl.float32)
        near *= -scale
        far = near
        grow = near
        if QUERY_GROWTH:
            growth = QueryGrowth + to_int64(b) * qg_batch + to_int64(h) * qg_head + first_row * qg_stride
            grow = tl.load(growth + r[:, None] * qg_stride + neuron[None, :], mask=inside, other=0.0)
            near *= 1.0 + grow
        if FAR:
            table = first_row * table_stride + r[:, None] * table_stride
            far = near * sign[None, :] * tl.load(sin + table + partner[None, :], mask=turns, other=0.0).to(tl.float32)
            near *= tl.load(cos + table + neuron[None, :], mask=turns, other=1.0).to(tl.float32)
        shift = -near * tl.load(mean_neuron)
        if FAR:
            shift -= far * tl.load(mean_partner)
        if QUERY_GROWTH:
            shift -= grow * mean_score
        importance = _site_importance(
            near, far, grow, shift, q, log2_sum, log2_sink, squares, key_counts, rows, dims, neuron, partner, sign,
            key, key_plain, key_growth, cos, sin, valid, bias, Scratch,
            first, last, size, turned, length, window, scale, softcap,
            k_stride, kp_stride, kg_stride, table_stride, KEYS, False, FAR, QUERY_GROWTH, False, CAPPED, SINKS,
            CAUSAL, BIASED, PRECISION,
        )  # fmt: skip
        partial = Partial + to_int64((b * heads + h) * tiles + tile) * (2 * LANES) + neuron
        tl.store(partial, importance)
        if PLAIN:
            key_means(
                q, log2_sum, log2_keys, rows, dims, dims_sign, key, key_plain, key_growth, cos, sin, valid, bias, means,
                first, last, size, turned, length, window, scale, softcap, skew,
                LANES, k_stride, kp_stride, kg_stride, table_stride, FAR, KEY_GROWTH, CAPPED, SINKS, CAUSAL,
                BIASED, PRECISION,
            )  # fmt: skip
            near = -scale * tl.load(query + r[:, None] * q_stride + neuron[None, :], mask=inside, other=0.0).to(
                tl.float32
            )
            shift = -near * tl.load(mean_neuron)
            far = near
            if FAR:
                far = -scale * tl.load(query + r[:, None] * q_stride + partner[None, :], mask=inside, other=0.0).to(
                    tl.float32
                )
                shift -= far * tl.load(mean_neuron + ROWS * LANES)
            if KEY_GROWTH:
                shift -= tl.load(mean_neuron + 2 * ROWS * LANES)
            importance = _site_importance(
                near, far, near, shift, q, log2_sum, log2_sink, squares, key_counts, rows, dims, neuron, partner, sign,
                key, key_plain, key_growth, cos, sin, valid, bias, Scratch,
                first, last, size, turned, length, window, scale, softcap,
                k_stride, kp_stride, kg_stride, table_stride, KEYS, True, FAR, False, KEY_GROWTH, CAPPED, SINKS,
                CAUSAL, BIASED, PRECISION,
            )  # fmt: skip
        tl.store(partial + LANES, importance)
        tl.debug_barrier()  # the sums of all threads are stored before the item is counted
        counter = Counters + b * (heads // group) + kv
        if tl.atomic_add(counter, 1, sem="acq_rel") == group * tiles - 1:
            tl.store(counter, 0)
            _add_up(Partial, QueryOut, KeyOut, b, kv, tiles, heads, group, size, neuron, LANES)


@triton.jit
def _add_up(Partial, QueryOut, KeyOut, b, kv, tiles, heads, group, size, neuron, LANES: tl.constexpr):
    """Computes the outputs of one key head from the sums of the tiles of its query heads."""
    r = tl.arange(0, ROWS)
    key_sum = tl.zeros((ROWS, LANES), tl.float32)
    for g in tl.range(0, group):
        h = kv * group + g
        query_sum = tl.zeros((ROWS, LANES), tl.float32)
        for start in tl.range(0, tiles, ROWS):
            tile = start + r
            at = Partial + to_int64((b * heads + h) * tiles + tile)[:, None] * (2 * LANES) + neuron[None, :]
            mask = (tile < tiles)[:, None] & (neuron < size)[None, :]
            query_sum += tl.load(at, mask=mask, other=0.0, cache_modifier=".cg")
            key_sum += tl.load(at + LANES, mask=mask, other=0.0, cache_modifier=".cg")
        tl.store(QueryOut + to_int64(b * heads + h) * size + neuron, tl.sum(query_sum, 0), mask=neuron < size)
    tl.store(KeyOut + to_int64(b * (heads // group) + kv) * size + neuron, tl.sum(key_sum, 0), mask=neuron < size)


def qk_importance(problem: QKProblem) -> tuple[Tensor, Tensor]:
    """Launches the kernel. Argument and results are those of `pymultiling.ops.reference.qk_importance`."""
    heads = Heads.of(problem)
    q_out = problem.q.new_empty(heads.batch, heads.heads * heads.size, dtype=torch.float32)
    k_out = problem.q.new_empty(heads.batch, heads.kv_heads * heads.size, dtype=torch.float32)
    if heads.items == 0:
        return q_out.zero_(), k_out.zero_()

    def scratch_floats(constants: dict[str, object]) -> int:
        return (ARRAYS.value * ROWS.value + 1) * constants["KEYS"] + 3 * ROWS.value * constants["LANES"]

    heads.launch("qk_importance", kernel, scratch_floats, 2, (q_out, k_out), problem)
    return q_out, k_out


def variants(warp: int = 32) -> Iterator[Variant]:
    """Yields the variants that `variants_of` lists. warp: threads of a warp."""
    return variants_of("qk_importance", kernel, warp)
