"""qk_estimate: the importance of query and key neurons from SLOTS keys per row, and its standard error, in one launch.

A row is a query. Its certain keys have the weight w = A: these are the keys with A above the lowest of the thresholds
0.07 2^-m, m < THRESHOLDS, that at most MAX_CERTAIN keys pass (0.07 if there is none). Let M be the sum of A of the
other keys, and R = SLOTS - (number of certain keys), rounded down to even. R keys are drawn systematically with
probability proportional to A: draw r selects the key at which the running sum of A passes (r + o) M / R, where o is the
fractional part of 0.618... times the number of keys up to the row's own. Each draw adds M / R to the weight of its key.
Let y be the change of the attention scores without neuron n, v = e^(y - c) for any c, and

    f = sum_j w A (v / Z - 1)^2,  Z = sum_j w v,    importance[n] = sum_i f,    error^2 = sum_i ((f_a - f_b) / 2)^2

where f_a and f_b come from the even and the odd draws alone. Rows of up to SLOTS keys are exact. An attention sink with
the probability a adds a e^-c to Z.

q, q_plain, q_growth (B, H, l, d); k, k_plain, k_growth (B, K, l, d); cos, sin (B or 1, l, r). The results are float32:
the importance (B, H d) and (B, K d), and the errors in the same shapes.

A program works on ROWS query rows of a head at a time. Tensor cores compute their attention scores, which are stored in
the program's scratch memory (ROWS x as many keys as the rows see). From there the program reads them, a tile of keys at
a time, to choose the slots (qk_slots.py). Then it processes the rows: a thread computes one neuron and holds a row's
SLOTS changes of the attention scores in registers (qk_slot_sums.py). If the changes are too large, or all too small,
for the short formula, the rows are processed again with the careful one. Rows that all see at most SLOTS keys have a
formula of their own, because rounding errors do not average out over so few keys.
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
from pymultiling.triton_kernels.qk_slot_sums import (
    CAREFUL,
    FEW,
    LARGEST_EXPONENT,
    SHORT,
    SMALLEST_EXPONENT,
    change,
)
from pymultiling.triton_kernels.qk_slots import (
    CELL,
    RAW,
    SLOTS,
    as_integers,
    choose,
    padded_span,
    scores_of,
    scratch_of,
    scratch_size,
    square_sums,
    store_scores,
)
from pymultiling.triton_kernels.qk_sweep import LOG2_E, ROWS, to_int64
from pymultiling.triton_kernels.variant import Variant


@triton.jit
def _clamp_to(n, inside):
    """Returns n, or 0 for a lane without a neuron, whose result is not used. `pair` explains the hint."""
    return tl.max_contiguous(tl.where(inside, n, 0), 2)


@triton.jit
def _sum_rows(
    query, query_plain, query_growth, key, key_plain, key_growth, cos, sin, valid, Slots, tile, count, neuron, partner,
    sign, size, turned, scale, softcap,
    q_stride: tl.constexpr, qp_stride: tl.constexpr, qg_stride: tl.constexpr, k_stride: tl.constexpr,
    kp_stride: tl.constexpr, kg_stride: tl.constexpr, table_stride: tl.constexpr,
    PLAIN: tl.constexpr, FAR: tl.constexpr, QUERY_GROWTH: tl.constexpr, KEY_GROWTH: tl.constexpr, CAPPED: tl.constexpr,
    SINKS: tl.constexpr, FORMULA: tl.constexpr,
):  # fmt: skip
    """Returns sums over a tile's rows, (LANES,) each, and the largest |t|.

    The sums are the query neurons' importance and squared error, and the key neurons' importance and squared error. t
    is the change of the attention scores, times log2(e). Only the first `count` rows of the tile exist.
    """
    query_sum = tl.zeros(neuron.shape, tl.float32)
    query_error = tl.zeros(neuron.shape, tl.float32)
    key_sum = tl.zeros(neuron.shape, tl.float32)
    key_error = tl.zeros(neuron.shape, tl.float32)
    reach = tl.zeros(neuron.shape, tl.float32)
    turns, inside = neuron < turned, neuron < size
    table_neuron, table_partner = _clamp_to(neuron, turns), _clamp_to(partner, turns)
    neuron, partner = _clamp_to(neuron, inside), _clamp_to(partner, inside)
    # With these the address of a slot's key takes one multiplication and one addition.
    key_neuron, key_partner, plain_neuron, growth_neuron = (
        key + neuron,
        key + partner,
        key_plain + neuron,
        key_growth + neuron,
    )
    cos_neuron, sin_partner = cos + table_neuron, sin + table_partner
    for row in tl.range(0, count):
        i = to_int64(tile) * ROWS + row
        is_counted = (tl.load(valid + i + 0 * neuron) != 0) & inside
        slot = Slots + row * SLOTS + tl.arange(0, SLOTS)
        squares = square_sums(Slots) + row
        j = tl.load(as_integers(slot)).to(tl.int64)[:, None]
        q_neuron = -scale * tl.load(query + i * q_stride + neuron).to(tl.float32)
        near = q_neuron
        if PLAIN:
            near = -scale * tl.load(query_plain + i * qp_stride + neuron).to(tl.float32)
        if QUERY_GROWTH:
            growth = tl.load(query_growth + i * qg_stride + neuron)
            near *= 1.0 + growth
        far = near
        if FAR:
            turn = i * table_stride
            far = tl.where(turns, near * sign * tl.load(sin + turn + table_partner).to(tl.float32), 0.0)
            near *= tl.where(turns, tl.load(cos + turn + table_neuron).to(tl.float32), 1.0)
        t = near[None, :] * tl.load(key_neuron[None, :] + j * k_stride).to(tl.float32)
        if FAR:
            t += far[None, :] * tl.load(key_partner[None, :] + j * k_stride).to(tl.float32)
        if QUERY_GROWTH:
            t += growth[None, :] * tl.load(slot + RAW * CELL)[:, None]
        importance, error, largest = change(t, slot, squares, softcap, CAPPED, SINKS, FORMULA)
        query_sum += tl.where(is_counted, importance, 0.0)
        query_error += tl.where(is_counted, error, 0.0)
        reach = tl.maximum(reach, tl.where(is_counted, largest, 0.0))
        if PLAIN:
            x = tl.load(plain_neuron[None, :] + j * kp_stride).to(tl.float32)
            if KEY_GROWTH:
                growth = tl.load(growth_neuron[None, :] + j * kg_stride)
                x *= 1.0 + growth
            if FAR:
                far = -scale * sign * tl.load(query + i * q_stride + partner).to(tl.float32)
                far, near = tl.where(turns, far, 0.0)[None, :], tl.where(turns, q_neuron, 0.0)[None, :]
                turn = j * table_stride
                unrotated = tl.where(turns, 0.0, q_neuron)[None, :]
                unrotated = far * tl.load(sin_partner[None, :] + turn).to(tl.float32) + unrotated
                t = x * (near * tl.load(cos_neuron[None, :] + turn).to(tl.float32) + unrotated)
            else:
                t = x * q_neuron[None, :]
            if KEY_GROWTH:
                t += growth * tl.load(slot + RAW * CELL)[:, None]
            importance, error, largest = change(t, slot, squares, softcap, CAPPED, SINKS, FORMULA)
            reach = tl.maximum(reach, tl.where(is_counted, largest, 0.0))
        key_sum += tl.where(is_counted, importance, 0.0)
        key_error += tl.where(is_counted, error, 0.0)
    return query_sum, query_error, key_sum, key_error, tl.max(reach, 0)


@triton.jit(do_not_specialize=PER_CALL)
def kernel(
    Query, q_batch, q_head, q_stride: tl.constexpr, Key, k_batch, k_head, k_stride: tl.constexpr,
    QueryPlain, qp_batch, qp_head, qp_stride: tl.constexpr, KeyPlain, kp_batch, kp_head, kp_stride: tl.constexpr,
    QueryGrowth, qg_batch, qg_head, qg_stride: tl.constexpr, KeyGrowth, kg_batch, kg_head, kg_stride: tl.constexpr,
    Cos, Sin, table_batch, table_stride: tl.constexpr, Valid, Sinks, Bias, bias_batch, Scratch, Partial, Counters,
    QueryOut, KeyOut, QueryError, KeyError,
    items, tiles, heads, group, length, size, turned, window, scale, softcap, skew,
    LANES: tl.constexpr, KEYS: tl.constexpr, PLAIN: tl.constexpr, FAR: tl.constexpr, INTERLEAVED: tl.constexpr,
    QUERY_GROWTH: tl.constexpr, KEY_GROWTH: tl.constexpr, CAPPED: tl.constexpr, SINKS: tl.constexpr,
    CAUSAL: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    r, dims = tl.arange(0, ROWS), tl.arange(0, LANES)
    neuron = dims + skew  # see qk_importance.py
    partner, sign = pair(neuron, turned, INTERLEAVED)
    span = padded_span(length, window, KEYS, CAUSAL)
    Slots = Scratch + to_int64(tl.program_id(0)) * scratch_size(span, CAPPED, SINKS, BIASED)
    Scores = scores_of(Slots, SINKS)
    scale = scale * LOG2_E
    for item in tl.range(tl.program_id(0), items, tl.num_programs(0), disable_licm=True):
        tile, b, h, kv, valid, key, key_plain, key_growth, cos, sin, rows, is_valid, first, last = item_of(
            item, items, tiles, heads, group, length, window, Key, k_batch, k_head, KeyPlain, kp_batch, kp_head,
            KeyGrowth, kg_batch, kg_head, Cos, Sin, table_batch, Valid, CAUSAL,
        )  # fmt: skip
        bias = Bias
        if BIASED:
            bias += to_int64(b) * bias_batch + to_int64(h) * length * length
        query = Query + to_int64(b) * q_batch + to_int64(h) * q_head
        query_plain = QueryPlain + to_int64(b) * qp_batch + to_int64(h) * qp_head
        query_growth = QueryGrowth + to_int64(b) * qg_batch + to_int64(h) * qg_head
        q_at = query + to_int64(tile) * ROWS * q_stride + r[None, :] * q_stride + dims[:, None]
        q = tl.load(q_at, mask=is_valid[None, :] & (dims < size)[:, None], other=0.0)
        store_scores(
            q, rows, dims, key, valid, bias, Scores, span, first, last, size, length, window, scale, softcap,
            KEYS, k_stride, CAPPED, CAUSAL, BIASED, PRECISION,
        )  # fmt: skip
        key_count = choose(
            Scores, Slots, span, rows, first, last, softcap, log2_sink_of(Sinks, h, SINKS),
            KEYS, QUERY_GROWTH or KEY_GROWTH, CAPPED, SINKS, CAUSAL, BIASED,
        )  # fmt: skip
        count = tl.where(last > first, tl.minimum(ROWS, length - tile * ROWS), 0)
        if key_count <= SLOTS:
            smallest = 0.0
            query_sum, query_error, key_sum, key_error, reach = _sum_rows(
                query, query_plain, query_growth, key, key_plain, key_growth, cos, sin, valid, Slots, tile, count,
                neuron, partner, sign, size, turned, scale, softcap,
                q_stride, qp_stride, qg_stride, k_stride, kp_stride, kg_stride, table_stride,
                PLAIN, FAR, QUERY_GROWTH, KEY_GROWTH, CAPPED, SINKS, FEW,
            )  # fmt: skip
        else:
            smallest = SMALLEST_EXPONENT
            query_sum, query_error, key_sum, key_error, reach = _sum_rows(
                query, query_plain, query_growth, key, key_plain, key_growth, cos, sin, valid, Slots, tile, count,
                neuron, partner, sign, size, turned, scale, softcap,
                q_stride, qp_stride, qg_stride, k_stride, kp_stride, kg_stride, table_stride,
                PLAIN, FAR, QUERY_GROWTH, KEY_GROWTH, CAPPED, SINKS, SHORT,
            )  # fmt: skip
        if (reach < smallest) | (reach > LARGEST_EXPONENT):
            query_sum, query_error, key_sum, key_error, reach = _sum_rows(
                query, query_plain, query_growth, key, key_plain, key_growth, cos, sin, valid, Slots, tile, count,
                neuron, partner, sign, size, turned, scale, softcap,
                q_stride, qp_stride, qg_stride, k_stride, kp_stride, kg_stride, table_stride,
                PLAIN, FAR, QUERY_GROWTH, KEY_GROWTH, CAPPED, SINKS, CAREFUL,
            )  # fmt: skip
        partial = Partial + to_int64((b * heads + h) * tiles + tile) * (4 * LANES) + neuron
        tl.store(partial, query_sum)
        tl.store(partial + LANES, key_sum)
        tl.store(partial + 2 * LANES, query_error)
        tl.store(partial + 3 * LANES, key_error)
        tl.debug_barrier()  # the sums of all threads are stored before the item is counted
        counter = Counters + b * (heads // group) + kv
        if tl.atomic_add(counter, 1, sem="acq_rel") == group * tiles - 1:
            tl.store(counter, 0)
            _add_up(Partial, QueryOut, KeyOut, QueryError, KeyError, b, kv, tiles, heads, group, size, neuron, LANES)


@triton.jit
def _add_up(
    Partial, QueryOut, KeyOut, QueryError, KeyError, b, kv, tiles, heads, group, size, neuron, LANES: tl.constexpr
):  # fmt: skip
    """Computes the outputs of one key head from the sums of the tiles of its query heads."""
    r = tl.arange(0, ROWS)
    inside = neuron < size
    key_sum = tl.zeros((ROWS, LANES), tl.float32)
    key_error = tl.zeros((ROWS, LANES), tl.float32)
    for g in tl.range(0, group):
        h = kv * group + g
        query_sum = tl.zeros((ROWS, LANES), tl.float32)
        query_error = tl.zeros((ROWS, LANES), tl.float32)
        for start in tl.range(0, tiles, ROWS):
            tile = start + r
            at = Partial + to_int64((b * heads + h) * tiles + tile)[:, None] * (4 * LANES) + neuron[None, :]
            mask = (tile < tiles)[:, None] & inside[None, :]
            query_sum += tl.load(at, mask=mask, other=0.0, cache_modifier=".cg")
            key_sum += tl.load(at + LANES, mask=mask, other=0.0, cache_modifier=".cg")
            query_error += tl.load(at + 2 * LANES, mask=mask, other=0.0, cache_modifier=".cg")
            key_error += tl.load(at + 3 * LANES, mask=mask, other=0.0, cache_modifier=".cg")
        output = to_int64(b * heads + h) * size + neuron
        tl.store(QueryOut + output, tl.sum(query_sum, 0), mask=inside)
        tl.store(QueryError + output, tl.sqrt(tl.sum(query_error, 0)), mask=inside)
    output = to_int64(b * (heads // group) + kv) * size + neuron
    tl.store(KeyOut + output, tl.sum(key_sum, 0), mask=inside)
    tl.store(KeyError + output, tl.sqrt(tl.sum(key_error, 0)), mask=inside)


def qk_estimate(problem: QKProblem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launches the kernel. Argument and results are those of `pymultiling.ops.reference.qk_estimate`."""
    heads = Heads.of(problem)
    query_size, key_size = (count * heads.size for count in (heads.heads, heads.kv_heads))
    # Each result has its own memory: torch's custom operators refuse results that are views of the same tensor.
    results = tuple(
        problem.q.new_empty(heads.batch, size, dtype=torch.float32)
        for size in (query_size, key_size, query_size, key_size)
    )
    if heads.items == 0:
        for result in results:
            result.zero_()
        return results

    def scratch_floats(constants: dict[str, object]) -> int:
        keys = heads.max_visible_keys(problem.window)
        return scratch_of(
            heads.length, keys, *(constants[name] for name in ("KEYS", "CAPPED", "SINKS", "CAUSAL", "BIASED"))
        )

    heads.launch("qk_estimate", kernel, scratch_floats, 4, results, problem)
    return results


def variants(warp: int = 32) -> Iterator[Variant]:
    """Yields the variants that `variants_of` lists. warp: threads of a warp."""
    return variants_of("qk_estimate", kernel, warp)
