"""qk_estimate: the importance of query and key neurons from SLOTS keys a row, and its standard error, in one launch.

A row's probable keys (A > 1 / (SLOTS - 1)) count as they are. From the others R = SLOTS - their number, rounded down to even,
are drawn systematically with probability A: draw r takes the key at which the running sum of their A passes (r + o) M / R,
M their mass, o the fractional part of 0.618... times the number of keys, and weighs M / R. With weights w and v = e^(y - c),

    importance[n] = sum_i sum_j w A (v / Z - 1)^2,  Z = sum_j w v;    error^2 = sum_i ((f_a - f_b) / 2)^2

f_a and f_b from the even and the odd draws alone. Rows of up to SLOTS keys are exact.

q, q_plain (B, H, l, d); k, k_plain (B, K, l, d); tables (B or 1, l, r); out (B, H d) and (B, K d), twice, float32.

A program takes ROWS query rows of a head. It reads the keys three times for scores (tensor cores): for the rows' softmax, for
the mass of the improbable keys, and for the draws, which it keeps in a scratch of its own. Then it goes through the rows: a thread
owns one neuron and holds a row's SLOTS changes of the scores in registers.
"""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from pymultiling.triton_kernels.qk_heads import (
    PER_CALL,
    PROGRAMS,
    Heads,
    counters,
    multiprocessors,
    pair,
    variants_of,
)
from pymultiling.triton_kernels.qk_sweep import LOG2_E, ROWS, cap_parts, capped_change, power_minus_1, score_tile, wide
from pymultiling.triton_kernels.variant import Variant

SLOTS = tl.constexpr(32)
GOLDEN = tl.constexpr(0.6180339887498949)
UNIT = tl.constexpr(2.0**30)  # running sums are integers, which add up to the same in any order
SMALLEST_MASS = tl.constexpr(2.0**-12)  # of the rest, in such units; the units of a smaller one are parts of it
LARGEST_EXPONENT = tl.constexpr(60.0)  # of 2: squares of larger powers overflow
SMALLEST_EXPONENT = tl.constexpr(0.125)  # of 2, of a row's largest: below it 2^t - 1 loses digits in all of them
# Of ROWS x SLOTS in the scratch: key (an integer), A, w of both halves, the logarithms of these three and of w, for a cap 1/(1+e^2x), 1/(1+e^-2x), cut, S.
ARRAYS = tl.constexpr(12)


@triton.jit
def _integers(Pointers):
    return Pointers.to(tl.pointer_type(tl.int32), bitcast=True)


@triton.jit
def _softmax(
    q, rows, dims, Key, Valid, first, last, size, length, window, scale, softcap,
    KEYS: tl.constexpr, KEY_STRIDE: tl.constexpr, CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of every row: log2 of the softmax's denominator, and how many keys it sees."""
    most = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    counts = tl.zeros((ROWS,), tl.int32)
    for start in tl.range(first, last, KEYS):
        _keys, _valid, _raw, scores = score_tile(
            q, Key, Valid, start, rows, dims, size, length, window, scale, softcap, KEYS, KEY_STRIDE, CAPPED, PRECISION
        )
        peak = tl.maximum(most, tl.max(scores, 0))
        base = tl.where(peak == -float("inf"), 0.0, peak)
        total = total * tl.exp2(most - base) + tl.sum(tl.exp2(scores - base[None, :]), 0)
        counts += tl.sum((scores != -float("inf")).to(tl.int32), 0)
        most = peak
    return most + tl.log2(total), counts


@triton.jit
def _rest(
    q, log2_sum, unit, rows, dims, Key, Valid, first, last, size, length, window, scale, softcap,
    KEYS: tl.constexpr, KEY_STRIDE: tl.constexpr, CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of every row: how many keys are probable, and the mass of the others, in units and as it is."""
    probable = tl.zeros((ROWS,), tl.int32)
    units = tl.zeros((ROWS,), tl.int32)
    mass = tl.zeros((ROWS,), tl.float32)
    for start in tl.range(first, last, KEYS):
        _keys, _valid, _raw, scores = score_tile(
            q, Key, Valid, start, rows, dims, size, length, window, scale, softcap, KEYS, KEY_STRIDE, CAPPED, PRECISION
        )
        a = tl.exp2(scores - log2_sum[None, :])
        certain = (a > 1.0 / (SLOTS - 1)) | (a != a)  # noqa: PLR0124, NaN shows
        probable += tl.sum(certain.to(tl.int32), 0)
        units += tl.sum(tl.where(certain, 0, (a * unit[None, :]).to(tl.int32)), 0)
        mass += tl.sum(tl.where(certain, 0.0, a), 0)
    return probable, units, mass


@triton.jit
def _choose(
    q, log2_sum, counts, rows, dims, Key, Valid, Slots, first, last, size, length, window, scale, softcap,
    KEYS: tl.constexpr, KEY_STRIDE: tl.constexpr, WITH_SCORES: tl.constexpr, CAPPED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Fills Slots. What stays empty has weight 0 and names the row's own key."""
    r, slot = tl.arange(0, ROWS), tl.arange(0, SLOTS)
    few = (counts <= SLOTS)[None, :]
    unit = tl.full((ROWS,), UNIT, tl.float32)
    probable, units, mass = _rest(
        q, log2_sum, unit, rows, dims, Key, Valid, first, last, size, length, window, scale, softcap,
        KEYS, KEY_STRIDE, CAPPED, PRECISION,
    )  # fmt: skip
    if tl.min(tl.where(mass > 0, mass, 1.0), 0) < SMALLEST_MASS:
        unit = tl.where(mass > 0, UNIT / mass, UNIT)
        probable, units, mass = _rest(
            q, log2_sum, unit, rows, dims, Key, Valid, first, last, size, length, window, scale, softcap,
            KEYS, KEY_STRIDE, CAPPED, PRECISION,
        )  # fmt: skip
    draws = (tl.maximum(-probable + SLOTS, 0) // 2 * 2).to(tl.float32)
    step = units.to(tl.float32) / (unit * tl.maximum(draws, 1.0))
    per_unit = draws / tl.maximum(units, 1).to(tl.float32)
    offset = counts.to(tl.float32) * GOLDEN
    offset -= tl.floor(offset)

    cell: tl.constexpr = ROWS * SLOTS
    blank = Slots + r[:, None] * SLOTS + slot[None, :]
    zero = tl.zeros((ROWS, SLOTS), tl.float32)
    tl.debug_barrier()
    tl.store(_integers(blank), tl.zeros((ROWS, SLOTS), tl.int32) + rows[:, None])
    for array in tl.static_range(1, 4):
        tl.store(blank + array * cell, zero)
    for array in tl.static_range(4, 8):
        tl.store(blank + array * cell, zero - float("inf"))
    for array in tl.static_range(8, 12):
        tl.store(blank + array * cell, zero + 0.5)
    tl.debug_barrier()
    taken = tl.zeros((ROWS,), tl.int32)
    passed = tl.zeros((ROWS,), tl.int32)
    for start in tl.range(first, last, KEYS):
        _keys, _valid, raw, scores = score_tile(
            q, Key, Valid, start, rows, dims, size, length, window, scale, softcap, KEYS, KEY_STRIDE, CAPPED, PRECISION
        )
        a = tl.exp2(scores - log2_sum[None, :])
        certain = ((a > 1.0 / (SLOTS - 1)) | (a != a) | few) & (scores != -float("inf"))  # noqa: PLR0124
        part = tl.where(certain, 0, (a * unit[None, :]).to(tl.int32))
        to = passed[None, :] + tl.cumsum(part, 0)
        before = tl.ceil((to - part).to(tl.float32) * per_unit[None, :] - offset[None, :])
        after = tl.ceil(to.to(tl.float32) * per_unit[None, :] - offset[None, :])
        before = tl.minimum(tl.maximum(before, 0.0), draws[None, :]).to(tl.int32)
        after = tl.minimum(tl.maximum(after, 0.0), draws[None, :]).to(tl.int32)
        hit = (after > before) & (part > 0)
        chosen = certain | hit
        place = taken[None, :] + tl.cumsum(chosen.to(tl.int32), 0) - 1
        even = ((after + 1) // 2 - (before + 1) // 2).to(tl.float32) * step[None, :]
        odd = (after // 2 - before // 2).to(tl.float32) * step[None, :]
        one, other = tl.where(certain, a, 2.0 * even), tl.where(certain, a, 2.0 * odd)
        at = Slots + r[None, :] * SLOTS + place
        chosen &= place < SLOTS
        tl.store(_integers(at), tl.zeros((KEYS, ROWS), tl.int32) + (start + tl.arange(0, KEYS))[:, None], mask=chosen)
        tl.store(at + cell, a, mask=chosen)
        tl.store(at + 2 * cell, one, mask=chosen)
        tl.store(at + 3 * cell, other, mask=chosen)
        log2_a = scores - log2_sum[None, :]
        tl.store(at + 4 * cell, log2_a, mask=chosen)
        tl.store(at + 5 * cell, tl.where(certain, log2_a, tl.log2(one)), mask=chosen)
        tl.store(at + 6 * cell, tl.where(certain, log2_a, tl.log2(other)), mask=chosen)
        tl.store(at + 7 * cell, tl.where(certain, log2_a, tl.log2((one + other) / 2.0)), mask=chosen)
        if WITH_SCORES:
            tl.store(at + 11 * cell, raw, mask=chosen)
        if CAPPED:
            below, above, cut = cap_parts(raw, softcap)
            tl.store(at + 8 * cell, below, mask=chosen)
            tl.store(at + 9 * cell, above, mask=chosen)
            tl.store(at + 10 * cell, cut, mask=chosen)
        taken += tl.sum(chosen.to(tl.int32), 0)
        passed += tl.sum(part, 0)
    tl.debug_barrier()


@triton.jit
def _squared_change(u, w, wa):
    """sum_j w A (u - m)^2 / (1 + m)^2, m = sum_j w u, from u = 2^t - 1."""
    m = tl.sum(w[:, None] * u, 0)
    change = (u - m[None, :]) * (1.0 / (1.0 + m))[None, :]
    return tl.sum(wa[:, None] * (change * change), 0)


@triton.jit
def _large_change(t, spot, array: tl.constexpr):
    """The same from logarithms: sum_j A / w (p - w)^2, p = softmax(log w + t)."""
    log2_w = tl.load(spot + array * ROWS * SLOTS)
    p = tl.exp2(t + log2_w[:, None] - tl.max(t + log2_w[:, None], 0)[None, :])
    change = p * (1.0 / tl.sum(p, 0))[None, :] - tl.exp2(log2_w)[:, None]
    share = tl.exp2(tl.load(spot + 4 * ROWS * SLOTS) - log2_w)
    return tl.sum(tl.where(log2_w == -float("inf"), 0.0, share)[:, None] * (change * change), 0)


@triton.jit
def _row(t, spot, softcap, CAPPED: tl.constexpr):
    """A row's importance (LANES,) from the change of its scores t (SLOTS, LANES), and the square of its error."""
    cell: tl.constexpr = ROWS * SLOTS
    if CAPPED:
        below = tl.load(spot + 8 * cell)[:, None]
        above = tl.load(spot + 9 * cell)[:, None]
        t = capped_change(t, below, above, tl.load(spot + 10 * cell)[:, None], softcap)
    a, one, other = tl.load(spot + cell), tl.load(spot + 2 * cell), tl.load(spot + 3 * cell)
    w = (one + other) / 2.0
    t -= tl.sum(w[:, None] * t, 0)[None, :]
    reach = tl.max(tl.max(tl.abs(t), 0), 0)
    u = tl.exp2(t) - 1.0
    if reach < SMALLEST_EXPONENT:
        u = power_minus_1(t)
    importance = _squared_change(u, w, w * a)
    half = (_squared_change(u, one, one * a) - _squared_change(u, other, other * a)) / 2.0
    if reach > LARGEST_EXPONENT:
        importance = _large_change(t, spot, 7)
        half = (_large_change(t, spot, 5) - _large_change(t, spot, 6)) / 2.0
    return importance, half * half


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
    r, slot, dims = tl.arange(0, ROWS), tl.arange(0, SLOTS), tl.arange(0, LANES)
    own = dims + skew  # see qk_importance.py
    partner, sign = pair(own, turned, INTERLEAVED)
    in_size, turns = own < size, own < turned
    cell: tl.constexpr = ROWS * SLOTS
    Scratch += wide(tl.program_id(0)) * (ARRAYS * cell)
    scale = scale * LOG2_E
    for item in tl.range(tl.program_id(0), items, tl.num_programs(0)):
        tile = tiles - 1 - item // (items // tiles)
        rank = item % (items // tiles)
        b = rank // heads
        h = rank % heads
        kv = h // group
        valid = Valid + wide(b) * length
        key = Key + wide(b) * k_batch + wide(kv) * k_head
        key_plain = KeyPlain + wide(b) * kp_batch + wide(kv) * kp_head
        key_gain = KeyGain + wide(b) * kg_batch + wide(kv) * kg_head
        query = Query + wide(b) * q_batch + wide(h) * q_head
        query_plain = QueryPlain + wide(b) * qp_batch + wide(h) * qp_head
        query_gain = QueryGain + wide(b) * qg_batch + wide(h) * qg_head
        cos, sin = Cos + wide(b) * table_batch, Sin + wide(b) * table_batch
        rows = tile * ROWS + r
        there = tl.load(valid + rows, mask=rows < length, other=0) != 0
        first = tl.maximum(tile * ROWS - window + 1, 0)
        last = tl.where(tl.max(there.to(tl.int32), 0) == 1, tl.minimum(tile * ROWS + ROWS, length), first)
        q_at = query + wide(tile) * ROWS * q_stride + r[None, :] * q_stride + dims[:, None]
        q = tl.load(q_at, mask=there[None, :] & (dims < size)[:, None], other=0.0)
        log2_sum, counts = _softmax(
            q, rows, dims, key, valid, first, last, size, length, window, scale, softcap,
            KEYS, k_stride, CAPPED, PRECISION,
        )  # fmt: skip
        _choose(
            q, log2_sum, counts, rows, dims, key, valid, Scratch, first, last, size, length, window, scale, softcap,
            KEYS, k_stride, QUERY_GAIN or KEY_GAIN, CAPPED, PRECISION,
        )  # fmt: skip
        of_queries = tl.zeros((LANES,), tl.float32)
        query_error = tl.zeros((LANES,), tl.float32)
        of_keys = tl.zeros((LANES,), tl.float32)
        key_error = tl.zeros((LANES,), tl.float32)
        for row in tl.range(0, tl.where(last > first, tl.minimum(ROWS, length - tile * ROWS), 0)):
            i = wide(tile) * ROWS + row
            real = (tl.load(valid + i + 0 * own) != 0) & in_size
            spot = Scratch + row * SLOTS + slot
            j = tl.load(_integers(spot)).to(tl.int64)[:, None]
            near = -scale * tl.load(query + i * q_stride + own, mask=real, other=0.0).to(tl.float32)
            if PLAIN:
                near = -scale * tl.load(query_plain + i * qp_stride + own, mask=real, other=0.0).to(tl.float32)
            if QUERY_GAIN:
                gain = tl.load(query_gain + i * qg_stride + own, mask=real, other=1.0)
                near *= gain
            far = near
            if FAR:
                turn = i * table_stride
                far = near * sign * tl.load(sin + turn + partner, mask=real & turns, other=0.0).to(tl.float32)
                near *= tl.load(cos + turn + own, mask=real & turns, other=1.0).to(tl.float32)
            t = near[None, :] * tl.load(key + j * k_stride + own[None, :], mask=real[None, :], other=0.0).to(tl.float32)
            if FAR:
                w = tl.load(key + j * k_stride + partner[None, :], mask=real[None, :], other=0.0).to(tl.float32)
                t += far[None, :] * w
            if QUERY_GAIN:
                t += (gain - 1.0)[None, :] * tl.load(spot + 11 * cell)[:, None]
            importance, error = _row(t, spot, softcap, CAPPED)
            of_queries += tl.where(real, importance, 0.0)
            query_error += tl.where(real, error, 0.0)
            if PLAIN:
                near = -scale * tl.load(query + i * q_stride + own, mask=real, other=0.0).to(tl.float32)
                x = tl.load(key_plain + j * kp_stride + own[None, :], mask=real[None, :], other=0.0).to(tl.float32)
                if KEY_GAIN:
                    gain = tl.load(key_gain + j * kg_stride + own[None, :], mask=real[None, :], other=1.0)
                    x *= gain
                t = near[None, :] * x
                if FAR:
                    turning = (real & turns)[None, :]
                    far = -scale * tl.load(query + i * q_stride + partner, mask=real, other=0.0).to(tl.float32)
                    turn = j * table_stride
                    t *= tl.load(cos + turn + own[None, :], mask=turning, other=1.0).to(tl.float32)
                    z = tl.load(sin + turn + partner[None, :], mask=turning, other=0.0).to(tl.float32)
                    t += (far * sign)[None, :] * x * z
                if KEY_GAIN:
                    t += (gain - 1.0) * tl.load(spot + 11 * cell)[:, None]
                importance, error = _row(t, spot, softcap, CAPPED)
            of_keys += tl.where(real, importance, 0.0)
            key_error += tl.where(real, error, 0.0)
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


def qk_estimate(
    q: Tensor,
    k: Tensor,
    q_plain: Tensor | None,
    k_plain: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    valid: Tensor,
    q_gain: Tensor | None,
    k_gain: Tensor | None,
    scale: float,
    window: int | None,
    softcap: float | None,
    interleaved: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    heads = Heads.of(q, k, q_plain, k_plain, cos, sin, valid, q_gain, k_gain)
    q_out = q.new_empty(2, heads.batch, heads.heads * heads.size, dtype=torch.float32)
    k_out = q.new_empty(2, heads.batch, heads.kv_heads * heads.size, dtype=torch.float32)
    items = heads.tiles * heads.batch * heads.heads
    if items == 0:
        return q_out[0].zero_(), k_out[0].zero_(), q_out[1].zero_(), k_out[1].zero_()
    constants = heads.constants("qk_estimate", interleaved, softcap)
    programs = min(items, PROGRAMS * multiprocessors(q.device))
    kernel[(programs,)](
        *heads.tensors,
        q.new_empty(programs * ARRAYS.value * ROWS.value * SLOTS.value, dtype=torch.float32),
        q.new_empty(items * 4 * constants["LANES"], dtype=torch.float32),
        counters(q.device, heads.batch * heads.kv_heads),
        q_out,
        k_out,
        items,
        *heads.numbers(scale, window, softcap),
        **constants,
    )
    return q_out[0], k_out[0], q_out[1], k_out[1]


def variants(lanes: int = 32) -> Iterator[Variant]:
    return variants_of("qk_estimate", kernel, lanes)
