"""qk_importance: how far each query and key neuron moves the attention probabilities, in one launch.

    importance[n] = sum_ij (A'_ij - A_ij)^2,   A = softmax(S),   A' = softmax(S + y_n)          (arXiv 2402.18815, eq. 9-11)

One sweep over the scores serves any neuron: with t = log2(e) y, shifted so that m is small, and v = A (2^t - 1),

    m = sum_j v,  b0 = sum_j A^2,  b1 = sum_j A v,  b2 = sum_j v^2:   sum_j (A' - A)^2 = (b2 - 2 m b1 + m^2 b0) / (1 + m)^2

q, q_plain (B, H, l, d); k, k_plain (B, K, l, d); tables (B or 1, l, r); out (B, H d) and (B, K d), float32.

A program takes ROWS query rows of a head at a time. It reads the keys once for the rows' softmax and for the mean of t under
A, by which t is shifted (tensor cores, keys as values), and once for each site (qk_sweep.py). The rows' importance goes to
`partial`; the last program to finish with a key head adds up all of its rows in a fixed order, so that the result is the same
bit for bit every time. Scores, probabilities, exponentials and sums stay on the multiprocessor.

float32 keeps its digits while m is small and nothing overflows. Where that fails rows are swept again: with the shift that m
asks for, or from logarithms.
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
    sweep,
    wide,
)
from pymultiling.triton_kernels.variant import Variant

# 2^t is 2^-23 off, so that a neuron's importance is about 2^-22 / |t| off, less the root of the number of keys and rows.
FEW_KEYS = tl.constexpr(32)  # over which nothing evens out: from logarithms at once, for 2% of the time at 512 tokens
SMALLEST_CHANGE = tl.constexpr(1.0 / 16)  # of a tile's largest: below it 2^t - 1 loses digits in all of its neurons
LARGEST_CANCELLATION = tl.constexpr(100.0)  # costs float32 two of its seven digits


@triton.jit
def _squared_change(m, b0, b1, b2):
    change = (b2 - 2.0 * m * b1 + m * m * b0) / ((1.0 + m) * (1.0 + m))
    return tl.where(change < 0, 0.0, change)  # what rounding left of 0; NaN stays


@triton.jit
def _site(
    near, far, grow, shift, q, log2_sum, squares, counts, rows, dims, own, partner, sign,
    Key, Plain, Gain, Cos, Sin, Valid, Scratch,
    first, last, size, turned, length, window, scale, softcap,
    KEY_STRIDE: tl.constexpr, PLAIN_STRIDE: tl.constexpr, GAIN_STRIDE: tl.constexpr, TABLE_STRIDE: tl.constexpr,
    KEYS: tl.constexpr, OF_KEYS: tl.constexpr, FAR: tl.constexpr, ROW_GAIN: tl.constexpr, KEY_GAIN: tl.constexpr, CAPPED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The rows' importance (D,) for one site; counts (ROWS, 1) are the keys a row sees, -1 for a row of padding."""
    real = (counts > 1) & (own < size)[None, :]  # with one key A' = A = 1
    change = tl.zeros(near.shape, tl.float32)
    few = (last - first <= FEW_KEYS).to(tl.int32)
    wild = tl.where(real, few, 0) == 1
    settled = ~real
    tries = 2 - 2 * few
    while tries > 0:
        m, b1, b2 = sweep(
            near, far, grow, shift, q, log2_sum, rows, dims, own, partner, sign,
            Key, Plain, Gain, Cos, Sin, Valid, Scratch,
            first, last, size, turned, length, window, scale, softcap,
            KEY_STRIDE, PLAIN_STRIDE, GAIN_STRIDE, TABLE_STRIDE, KEYS,
            POWER, OF_KEYS, FAR, ROW_GAIN, KEY_GAIN, CAPPED, PRECISION,
        )  # fmt: skip
        found = _squared_change(m, squares, b1, b2)
        change = tl.where(settled, change, found)
        largest = tl.max(tl.max(tl.where(real, b2 / squares, 0.0), 1), 0)
        tiny = (largest < SMALLEST_CHANGE * SMALLEST_CHANGE).to(tl.int32)
        wild |= real & (tl.where((b2 < float("inf")) & (m > -0.5), tiny, 1) == 1)
        settled |= wild | (LARGEST_CANCELLATION * found * (1.0 + m) * (1.0 + m) >= b2)
        shift = tl.where(settled, shift, shift - tl.log2(1.0 + m))
        tries = tl.where(tl.min(tl.min(settled.to(tl.int32), 1), 0) == 1, 0, tries - 1)
    if tl.max(tl.max(wild.to(tl.int32), 1), 0) == 1:
        total, b1, b2 = sweep(
            near, far, grow, shift, q, log2_sum, rows, dims, own, partner, sign,
            Key, Plain, Gain, Cos, Sin, Valid, Scratch,
            first, last, size, turned, length, window, scale, softcap,
            KEY_STRIDE, PLAIN_STRIDE, GAIN_STRIDE, TABLE_STRIDE, KEYS,
            ONLINE, OF_KEYS, FAR, ROW_GAIN, KEY_GAIN, CAPPED, PRECISION,
        )  # fmt: skip
        m, b1, b2 = sweep(
            near, far, grow, shift - total, q, log2_sum, rows, dims, own, partner, sign,
            Key, Plain, Gain, Cos, Sin, Valid, Scratch,
            first, last, size, turned, length, window, scale, softcap,
            KEY_STRIDE, PLAIN_STRIDE, GAIN_STRIDE, TABLE_STRIDE, KEYS,
            CAREFUL, OF_KEYS, FAR, ROW_GAIN, KEY_GAIN, CAPPED, PRECISION,
        )  # fmt: skip
        change = tl.where(wild, _squared_change(m, squares, b1, b2), change)
    return tl.sum(tl.where(real, change, 0.0), 0)


@triton.jit(do_not_specialize=PER_CALL)
def kernel(
    Query, q_batch, q_head, q_stride: tl.constexpr, Key, k_batch, k_head, k_stride: tl.constexpr,
    QueryPlain, qp_batch, qp_head, qp_stride: tl.constexpr, KeyPlain, kp_batch, kp_head, kp_stride: tl.constexpr,
    QueryGain, qg_batch, qg_head, qg_stride: tl.constexpr, KeyGain, kg_batch, kg_head, kg_stride: tl.constexpr,
    Cos, Sin, table_batch, table_stride: tl.constexpr, Valid, Scratch, Partial, Counters, QueryOut, KeyOut,
    items, tiles, heads, group, length, size, turned, window, scale, softcap, skew,
    LANES: tl.constexpr, KEYS: tl.constexpr, PLAIN: tl.constexpr, FAR: tl.constexpr, INTERLEAVED: tl.constexpr, QUERY_GAIN: tl.constexpr,
    KEY_GAIN: tl.constexpr, CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    r, dims = tl.arange(0, ROWS), tl.arange(0, LANES)
    # skew is 0, which the compiler does not know: it loads (ROWS, LANES) without vectors, a thread owning one neuron.
    own = dims + skew
    _, dims_sign = pair(dims, turned, INTERLEAVED)
    partner, sign = pair(own, turned, INTERLEAVED)
    Scratch += wide(tl.program_id(0)) * (ARRAYS * KEYS * ROWS + KEYS + 3 * ROWS * LANES)
    means = Scratch + ARRAYS * KEYS * ROWS + KEYS
    mean_own = means + r[:, None] * LANES + own[None, :]
    mean_partner = means + r[:, None] * LANES + partner[None, :]
    scale = scale * LOG2_E
    for item in tl.range(tl.program_id(0), items, tl.num_programs(0)):
        tile, b, h, kv, valid, key, key_plain, key_gain, cos, sin, rows, there, first, last = item_of(
            item, items, tiles, heads, group, length, window, Key, k_batch, k_head, KeyPlain, kp_batch, kp_head,
            KeyGain, kg_batch, kg_head, Cos, Sin, table_batch, Valid,
        )  # fmt: skip
        top = wide(tile) * ROWS
        query = Query + wide(b) * q_batch + wide(h) * q_head + top * q_stride
        q_at = query + r[None, :] * q_stride + dims[:, None]
        q = tl.load(q_at, mask=there[None, :] & (dims < size)[:, None], other=0.0)
        log2_sum, squares, counts, mean_score = softmax(
            q, rows, dims, key, valid, means, first, last, size, length, window, scale, softcap, skew,
            LANES, k_stride, CAPPED, PRECISION,
        )  # fmt: skip
        counts = tl.where(there, counts, -1)[:, None]
        squares, mean_score = squares[:, None], mean_score[:, None]
        inside = there[:, None] & (own < size)[None, :]
        turns = there[:, None] & (own < turned)[None, :]
        near = tl.load(query + r[:, None] * q_stride + own[None, :], mask=inside, other=0.0).to(tl.float32)
        if PLAIN:
            plain = QueryPlain + wide(b) * qp_batch + wide(h) * qp_head + top * qp_stride
            near = tl.load(plain + r[:, None] * qp_stride + own[None, :], mask=inside, other=0.0).to(tl.float32)
        near *= -scale
        far = near
        grow = near
        if QUERY_GAIN:
            gain = QueryGain + wide(b) * qg_batch + wide(h) * qg_head + top * qg_stride
            gain = tl.load(gain + r[:, None] * qg_stride + own[None, :], mask=inside, other=1.0)
            near *= gain
            grow = gain - 1.0
        if FAR:
            table = top * table_stride + r[:, None] * table_stride
            far = near * sign[None, :] * tl.load(sin + table + partner[None, :], mask=turns, other=0.0).to(tl.float32)
            near *= tl.load(cos + table + own[None, :], mask=turns, other=1.0).to(tl.float32)
        shift = -near * tl.load(mean_own)
        if FAR:
            shift -= far * tl.load(mean_partner)
        if QUERY_GAIN:
            shift -= grow * mean_score
        importance = _site(
            near, far, grow, shift, q, log2_sum, squares, counts, rows, dims, own, partner, sign,
            key, key_plain, key_gain, cos, sin, valid, Scratch,
            first, last, size, turned, length, window, scale, softcap,
            k_stride, kp_stride, kg_stride, table_stride, KEYS, False, FAR, QUERY_GAIN, False, CAPPED, PRECISION,
        )  # fmt: skip
        partial = Partial + wide((b * heads + h) * tiles + tile) * (2 * LANES) + own
        tl.store(partial, importance)
        if PLAIN:
            key_means(
                q, log2_sum, rows, dims, dims_sign, key, key_plain, key_gain, cos, sin, valid, means,
                first, last, size, turned, length, window, scale, softcap, skew,
                LANES, k_stride, kp_stride, kg_stride, table_stride, FAR, KEY_GAIN, CAPPED, PRECISION,
            )  # fmt: skip
            near = -scale * tl.load(query + r[:, None] * q_stride + own[None, :], mask=inside, other=0.0).to(tl.float32)
            shift = -near * tl.load(mean_own)
            far = near
            if FAR:
                far = -scale * tl.load(query + r[:, None] * q_stride + partner[None, :], mask=inside, other=0.0).to(
                    tl.float32
                )
                shift -= far * tl.load(mean_own + ROWS * LANES)
            if KEY_GAIN:
                shift -= tl.load(mean_own + 2 * ROWS * LANES)
            importance = _site(
                near, far, near, shift, q, log2_sum, squares, counts, rows, dims, own, partner, sign,
                key, key_plain, key_gain, cos, sin, valid, Scratch,
                first, last, size, turned, length, window, scale, softcap,
                k_stride, kp_stride, kg_stride, table_stride, KEYS, True, FAR, False, KEY_GAIN, CAPPED, PRECISION,
            )  # fmt: skip
        tl.store(partial + LANES, importance)
        tl.debug_barrier()
        counter = Counters + b * (heads // group) + kv
        if tl.atomic_add(counter, 1, sem="acq_rel") == group * tiles - 1:
            tl.store(counter, 0)
            _add_up(Partial, QueryOut, KeyOut, b, kv, tiles, heads, group, size, own, LANES)


@triton.jit
def _add_up(Partial, QueryOut, KeyOut, b, kv, tiles, heads, group, size, own, LANES: tl.constexpr):
    """The outputs of one key head, from its query heads' rows."""
    r = tl.arange(0, ROWS)
    of_keys = tl.zeros((ROWS, LANES), tl.float32)
    for g in tl.range(0, group):
        h = kv * group + g
        of_queries = tl.zeros((ROWS, LANES), tl.float32)
        for start in tl.range(0, tiles, ROWS):
            tile = start + r
            at = Partial + wide((b * heads + h) * tiles + tile)[:, None] * (2 * LANES) + own[None, :]
            mask = (tile < tiles)[:, None] & (own < size)[None, :]
            of_queries += tl.load(at, mask=mask, other=0.0, cache_modifier=".cg")
            of_keys += tl.load(at + LANES, mask=mask, other=0.0, cache_modifier=".cg")
        tl.store(QueryOut + wide(b * heads + h) * size + own, tl.sum(of_queries, 0), mask=own < size)
    tl.store(KeyOut + wide(b * (heads // group) + kv) * size + own, tl.sum(of_keys, 0), mask=own < size)


def qk_importance(problem: QKProblem) -> tuple[Tensor, Tensor]:
    heads = Heads.of(problem)
    q_out = problem.q.new_empty(heads.batch, heads.heads * heads.size, dtype=torch.float32)
    k_out = problem.q.new_empty(heads.batch, heads.kv_heads * heads.size, dtype=torch.float32)
    if heads.items == 0:
        return q_out.zero_(), k_out.zero_()

    def scratch(constants: dict) -> int:
        return (ARRAYS.value * ROWS.value + 1) * constants["KEYS"] + 3 * ROWS.value * constants["LANES"]

    heads.launch("qk_importance", kernel, scratch, 2, (q_out, k_out), problem)
    return q_out, k_out


def variants(lanes: int = 32) -> Iterator[Variant]:
    return variants_of("qk_importance", kernel, lanes)
