"""qk_estimate: the importance of query and key neurons from SLOTS keys a row, and its standard error, in one launch.

A row's probable keys count as they are: those with A above the lowest of the thresholds 0.07 2^-m, m < THRESHOLDS, that
at most CERTAIN keys pass (0.07 if there is none). From the others R = SLOTS - their number, rounded down to even, are
drawn systematically with probability A: draw r takes the key at which the running sum of their A passes (r + o) M / R,
M their mass, o the fractional part of 0.618... times the number of keys, and weighs M / R. With weights w and v = e^(y - c),

    importance[n] = sum_i sum_j w A (v / Z - 1)^2,  Z = sum_j w v;    error^2 = sum_i ((f_a - f_b) / 2)^2

f_a and f_b from the even and the odd draws alone. Rows of up to SLOTS keys are exact.

q, q_plain (B, H, l, d); k, k_plain (B, K, l, d); tables (B or 1, l, r); out (B, H d) and (B, K d), twice, float32.

A program takes ROWS query rows of a head at a time. Tensor cores make their scores, which go to a scratch of its own
(ROWS x as many keys as the rows see); from there it reads them, a tile of keys at a time, to choose the slots
(qk_slots.py). Then it goes through the rows: a thread owns one neuron and holds a row's SLOTS changes of the scores in
registers (qk_slot_sums.py), a second time where they are too large, or all too small, for the short formula.
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
from pymultiling.triton_kernels.qk_slot_sums import LARGEST_EXPONENT, SMALLEST_EXPONENT, change
from pymultiling.triton_kernels.qk_slots import (
    CELL,
    RAW,
    SLOTS,
    choose,
    integers,
    scratch_of,
    scratch_size,
    span_of,
    squares_of,
    store_scores,
)
from pymultiling.triton_kernels.qk_sweep import LOG2_E, ROWS, wide
from pymultiling.triton_kernels.variant import Variant


@triton.jit
def _within(n, inside):
    """n, or 0: a lane without a neuron reads another one's numbers, its result is not used. The hint is that of pair."""
    return tl.max_contiguous(tl.where(inside, n, 0), 2)


@triton.jit
def _rows(
    query, query_plain, query_gain, key, key_plain, key_gain, cos, sin, valid, Slots, tile, count, own, partner, sign,
    size, turned, scale, softcap,
    q_stride: tl.constexpr, qp_stride: tl.constexpr, qg_stride: tl.constexpr, k_stride: tl.constexpr,
    kp_stride: tl.constexpr, kg_stride: tl.constexpr, table_stride: tl.constexpr,
    PLAIN: tl.constexpr, FAR: tl.constexpr, QUERY_GAIN: tl.constexpr, KEY_GAIN: tl.constexpr, CAPPED: tl.constexpr,
    CAREFUL: tl.constexpr,
):  # fmt: skip
    """Sums over the rows (LANES,): the queries' importance, the squares of its error, the keys'; and the largest |t|."""
    of_queries = tl.zeros(own.shape, tl.float32)
    query_error = tl.zeros(own.shape, tl.float32)
    of_keys = tl.zeros(own.shape, tl.float32)
    key_error = tl.zeros(own.shape, tl.float32)
    reach = tl.zeros(own.shape, tl.float32)
    turns, inside = own < turned, own < size
    turn_own, turn_partner = _within(own, turns), _within(partner, turns)
    own, partner = _within(own, inside), _within(partner, inside)
    # The address of a slot's key is one multiplication and addition.
    key_own, key_partner, plain_own, gain_own = key + own, key + partner, key_plain + own, key_gain + own
    cos_own, sin_partner = cos + turn_own, sin + turn_partner
    for row in tl.range(0, count):
        i = wide(tile) * ROWS + row
        real = (tl.load(valid + i + 0 * own) != 0) & inside
        spot = Slots + row * SLOTS + tl.arange(0, SLOTS)
        squares = squares_of(Slots) + row
        j = tl.load(integers(spot)).to(tl.int64)[:, None]
        q_own = -scale * tl.load(query + i * q_stride + own).to(tl.float32)
        near = q_own
        if PLAIN:
            near = -scale * tl.load(query_plain + i * qp_stride + own).to(tl.float32)
        if QUERY_GAIN:
            gain = tl.load(query_gain + i * qg_stride + own)
            near *= gain
        far = near
        if FAR:
            turn = i * table_stride
            far = tl.where(turns, near * sign * tl.load(sin + turn + turn_partner).to(tl.float32), 0.0)
            near *= tl.where(turns, tl.load(cos + turn + turn_own).to(tl.float32), 1.0)
        t = near[None, :] * tl.load(key_own[None, :] + j * k_stride).to(tl.float32)
        if FAR:
            t += far[None, :] * tl.load(key_partner[None, :] + j * k_stride).to(tl.float32)
        if QUERY_GAIN:
            t += (gain - 1.0)[None, :] * tl.load(spot + RAW * CELL)[:, None]
        importance, error, largest = change(t, spot, squares, softcap, CAPPED, CAREFUL)
        of_queries += tl.where(real, importance, 0.0)
        query_error += tl.where(real, error, 0.0)
        reach = tl.maximum(reach, tl.where(real, largest, 0.0))
        if PLAIN:
            x = tl.load(plain_own[None, :] + j * kp_stride).to(tl.float32)
            if KEY_GAIN:
                gain = tl.load(gain_own[None, :] + j * kg_stride)
                x *= gain
            if FAR:
                far = -scale * sign * tl.load(query + i * q_stride + partner).to(tl.float32)
                far, near = tl.where(turns, far, 0.0)[None, :], tl.where(turns, q_own, 0.0)[None, :]
                turn = j * table_stride
                still = tl.where(turns, 0.0, q_own)[None, :]
                still = far * tl.load(sin_partner[None, :] + turn).to(tl.float32) + still
                t = x * (near * tl.load(cos_own[None, :] + turn).to(tl.float32) + still)
            else:
                t = x * q_own[None, :]
            if KEY_GAIN:
                t += (gain - 1.0) * tl.load(spot + RAW * CELL)[:, None]
            importance, error, largest = change(t, spot, squares, softcap, CAPPED, CAREFUL)
            reach = tl.maximum(reach, tl.where(real, largest, 0.0))
        of_keys += tl.where(real, importance, 0.0)
        key_error += tl.where(real, error, 0.0)
    return of_queries, query_error, of_keys, key_error, tl.max(reach, 0)


@triton.jit(do_not_specialize=PER_CALL)
def kernel(
    Query, q_batch, q_head, q_stride: tl.constexpr, Key, k_batch, k_head, k_stride: tl.constexpr,
    QueryPlain, qp_batch, qp_head, qp_stride: tl.constexpr, KeyPlain, kp_batch, kp_head, kp_stride: tl.constexpr,
    QueryGain, qg_batch, qg_head, qg_stride: tl.constexpr, KeyGain, kg_batch, kg_head, kg_stride: tl.constexpr,
    Cos, Sin, table_batch, table_stride: tl.constexpr, Valid, Scratch, Partial, Counters, QueryOut, KeyOut,
    items, tiles, heads, group, length, size, turned, window, scale, softcap, skew,
    LANES: tl.constexpr, KEYS: tl.constexpr, PLAIN: tl.constexpr, FAR: tl.constexpr, INTERLEAVED: tl.constexpr,
    QUERY_GAIN: tl.constexpr, KEY_GAIN: tl.constexpr, CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    r, dims = tl.arange(0, ROWS), tl.arange(0, LANES)
    own = dims + skew  # see qk_importance.py
    partner, sign = pair(own, turned, INTERLEAVED)
    span = span_of(length, window, KEYS)
    Slots = Scratch + wide(tl.program_id(0)) * scratch_size(span, CAPPED)
    Scores = squares_of(Slots) + 2 * ROWS
    scale = scale * LOG2_E
    for item in tl.range(tl.program_id(0), items, tl.num_programs(0), disable_licm=True):
        tile, b, h, kv, valid, key, key_plain, key_gain, cos, sin, rows, there, first, last = item_of(
            item, items, tiles, heads, group, length, window, Key, k_batch, k_head, KeyPlain, kp_batch, kp_head,
            KeyGain, kg_batch, kg_head, Cos, Sin, table_batch, Valid,
        )  # fmt: skip
        query = Query + wide(b) * q_batch + wide(h) * q_head
        query_plain = QueryPlain + wide(b) * qp_batch + wide(h) * qp_head
        query_gain = QueryGain + wide(b) * qg_batch + wide(h) * qg_head
        q_at = query + wide(tile) * ROWS * q_stride + r[None, :] * q_stride + dims[:, None]
        q = tl.load(q_at, mask=there[None, :] & (dims < size)[:, None], other=0.0)
        store_scores(
            q, rows, dims, key, valid, Scores, span, first, last, size, length, window, scale, softcap,
            KEYS, k_stride, CAPPED, PRECISION,
        )  # fmt: skip
        choose(Scores, Slots, span, rows, first, last, softcap, KEYS, QUERY_GAIN or KEY_GAIN, CAPPED)
        count = tl.where(last > first, tl.minimum(ROWS, length - tile * ROWS), 0)
        of_queries, query_error, of_keys, key_error, reach = _rows(
            query, query_plain, query_gain, key, key_plain, key_gain, cos, sin, valid, Slots, tile, count,
            own, partner, sign, size, turned, scale, softcap,
            q_stride, qp_stride, qg_stride, k_stride, kp_stride, kg_stride, table_stride,
            PLAIN, FAR, QUERY_GAIN, KEY_GAIN, CAPPED, False,
        )  # fmt: skip
        if (reach < SMALLEST_EXPONENT) | (reach > LARGEST_EXPONENT):
            of_queries, query_error, of_keys, key_error, reach = _rows(
                query, query_plain, query_gain, key, key_plain, key_gain, cos, sin, valid, Slots, tile, count,
                own, partner, sign, size, turned, scale, softcap,
                q_stride, qp_stride, qg_stride, k_stride, kp_stride, kg_stride, table_stride,
                PLAIN, FAR, QUERY_GAIN, KEY_GAIN, CAPPED, True,
            )  # fmt: skip
        partial = Partial + wide((b * heads + h) * tiles + tile) * (4 * LANES) + own
        tl.store(partial, of_queries)
        tl.store(partial + LANES, of_keys)
        tl.store(partial + 2 * LANES, query_error)
        tl.store(partial + 3 * LANES, key_error)
        tl.debug_barrier()
        counter = Counters + b * (heads // group) + kv
        if tl.atomic_add(counter, 1, sem="acq_rel") == group * tiles - 1:
            tl.store(counter, 0)
            _add_up(Partial, QueryOut, KeyOut, b, kv, items // tiles, tiles, heads, group, size, own, LANES)


@triton.jit
def _add_up(Partial, QueryOut, KeyOut, b, kv, all_heads, tiles, heads, group, size, own, LANES: tl.constexpr):
    """The outputs of one key head, from its query heads' rows; behind each output its error."""
    r = tl.arange(0, ROWS)
    inside = own < size
    of_keys = tl.zeros((ROWS, LANES), tl.float32)
    key_error = tl.zeros((ROWS, LANES), tl.float32)
    for g in tl.range(0, group):
        h = kv * group + g
        of_queries = tl.zeros((ROWS, LANES), tl.float32)
        query_error = tl.zeros((ROWS, LANES), tl.float32)
        for start in tl.range(0, tiles, ROWS):
            tile = start + r
            at = Partial + wide((b * heads + h) * tiles + tile)[:, None] * (4 * LANES) + own[None, :]
            mask = (tile < tiles)[:, None] & inside[None, :]
            of_queries += tl.load(at, mask=mask, other=0.0, cache_modifier=".cg")
            of_keys += tl.load(at + LANES, mask=mask, other=0.0, cache_modifier=".cg")
            query_error += tl.load(at + 2 * LANES, mask=mask, other=0.0, cache_modifier=".cg")
            key_error += tl.load(at + 3 * LANES, mask=mask, other=0.0, cache_modifier=".cg")
        out = QueryOut + wide(b * heads + h) * size + own
        tl.store(out, tl.sum(of_queries, 0), mask=inside)
        tl.store(out + wide(all_heads) * size, tl.sqrt(tl.sum(query_error, 0)), mask=inside)
    out = KeyOut + wide(b * (heads // group) + kv) * size + own
    tl.store(out, tl.sum(of_keys, 0), mask=inside)
    tl.store(out + wide(all_heads // group) * size, tl.sqrt(tl.sum(key_error, 0)), mask=inside)


def qk_estimate(problem: QKProblem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    heads = Heads.of(problem)
    q_out = problem.q.new_empty(2, heads.batch, heads.heads * heads.size, dtype=torch.float32)
    k_out = problem.q.new_empty(2, heads.batch, heads.kv_heads * heads.size, dtype=torch.float32)
    if heads.items == 0:
        return q_out[0].zero_(), k_out[0].zero_(), q_out[1].zero_(), k_out[1].zero_()

    def scratch(constants: dict) -> int:
        return scratch_of(heads.length, heads.seen(problem.window), constants["KEYS"], constants["CAPPED"])

    heads.launch("qk_estimate", kernel, scratch, 4, (q_out, k_out), problem)
    return q_out[0], k_out[0], q_out[1], k_out[1]


def variants(lanes: int = 32) -> Iterator[Variant]:
    return variants_of("qk_estimate", kernel, lanes)
