"""Device functions of qk_importance: a tile of attention scores, and the sweep over the keys for all neurons of a head.

qk_estimate uses some of them too.

A program works on ROWS query rows at once. A thread computes one neuron for all rows, so what a key contributes to a
neuron is loaded once for ROWS exponentials, and the sums stay in registers. Probabilities are the same for all neurons.
The tensor cores compute KEYS x ROWS of them at a time, the program stores them in its own scratch memory (a few KB, in
L1 while it runs), and every thread reads the ROWS probabilities of a key with 16-byte loads.

Attention scores are multiplied by log2(e), so that exponentials are powers of two.
"""

import triton
import triton.language as tl

ROWS = tl.constexpr(16)  # accumulators and coefficients take 6 registers per row
UNROLL = tl.constexpr(4)  # keys whose loads are issued together
LOG2_E = tl.constexpr(1.4426950408889634)

# Modes of `sweep`
POWER = tl.constexpr(0)  # sums of A u with u = 2^t - 1, unless 2^t overflows
ONLINE = tl.constexpr(1)  # the largest log2(A 2^t), and log2 of sum A 2^t minus it, for any t
CAREFUL = tl.constexpr(2)  # sums of A' - A for any t, from logarithms

# A is stored times 2^30, so that it only becomes 0 below 2^-156. Such a key only matters if its 2^t is infinite in
# float32. Then the sums are not finite, and the rows are swept again.
A_SCALE = tl.constexpr(2.0**30)

# Largest |S / softcap| of which the soft cap's slope is computed, e^-60. The squares of lower slopes are 0 in float32.
LARGEST_CAPPED = tl.constexpr(30.0)

# Arrays (KEYS, ROWS) in the scratch memory: A (or log2 A), the attention score before the cap, and the three numbers of
# `cap_parts`.
ARRAYS = tl.constexpr(5)


@triton.jit
def to_int64(i):
    """Returns i as a 64-bit integer, also in the interpreter, where loop indices are Python integers."""
    return tl.zeros((), tl.int64) + i


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """Returns a b in float32. "widened" converts to float32 first, as the interpreter cannot multiply bfloat16."""
    if PRECISION == "widened":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def power_minus_1(t):
    """Returns 2^t - 1 for |t| <= 1/2, to float32's precision."""
    p = 1.5252733804059841e-05
    p = p * t + 1.5403530393381610e-04
    p = p * t + 1.3333558146428443e-03
    p = p * t + 9.6181291076284772e-03
    p = p * t + 5.5504108664821580e-02
    p = p * t + 2.4022650695910072e-01
    p = p * t + 6.9314718055994531e-01
    return p * t


@triton.jit
def exp2_minus_1(t):
    """Returns 2^t - 1 with an error relative to itself, for any t."""
    return tl.where(tl.abs(t) < 0.5, power_minus_1(t), tl.exp2(t) - 1.0)


@triton.jit
def log2_add(a, b):
    """Returns log2(2^a + 2^b). If a or b is NaN, it is NaN."""
    return tl.maximum(a, b) + tl.log2(1.0 + tl.exp2(-tl.abs(a - b)))


@triton.jit
def change_of_weight(log2_a, t, exponent):
    """Returns A 2^t - A for any t. exponent: log2 A + t, which may be computed in another order."""
    a = tl.exp2(log2_a)
    is_small = (tl.abs(t) < 0.5) & (tl.abs(exponent - log2_a) < 1.0)  # a rounded t may contradict the exponent
    return tl.where(is_small, a * power_minus_1(t), tl.exp2(exponent) - a)


@triton.jit
def _limit(x, limit):
    """Limits x to +-limit; NaN stays."""
    keep: tl.constexpr = tl.PropagateNan.ALL
    return tl.minimum(tl.maximum(x, -limit, propagate_nan=keep), limit, propagate_nan=keep)


@triton.jit
def cap_parts(raw, softcap):
    """Returns what `capped_change` needs of attention scores S: 1/(1+e^2x), 1/(1+e^-2x) and cut, with x = S/softcap.

    raw is S log2(e). In the first two x is limited to +-LARGEST_CAPPED, and cut is 2 log2(e) times the part of x beyond
    the limit.
    """
    x = raw / softcap
    near = _limit(x, LARGEST_CAPPED * LOG2_E)
    return 1.0 / (1.0 + tl.exp2(2.0 * near)), 1.0 / (1.0 + tl.exp2(-2.0 * near)), 2.0 * (x - near)


@triton.jit
def _capped(raw, softcap):
    """Returns softcap tanh(S / softcap) log2(e), where raw is S log2(e). Small scores keep their digits."""
    less_1 = exp2_minus_1(-2.0 * tl.abs(_limit(raw / softcap, LARGEST_CAPPED * LOG2_E)))
    size = -LOG2_E * softcap * less_1 / (2.0 + less_1)
    return tl.where(raw < 0.0, -size, size)


@triton.jit
def infinite_to_nan(scores, raw, visible):
    """Returns the attention scores of `score_tile`, but NaN where the score of a visible key is infinite.

    No softmax can weigh an infinite score, and -inf would hide the key.
    """
    return tl.where(visible, scores + 0.0 * raw, scores)


@triton.jit
def capped_change(t, below, above, cut, softcap):
    """Returns the change of softcap tanh(S/softcap) when S changes by t, both times log2(e).

    below, above and cut are the results of `cap_parts`: a, b and what is cut off x.

    tanh(x + z) - tanh(x) = 2 a b D / (a + b (1 + D)), D = e^2z - 1, a = 1/(1+e^2x), b = 1/(1+e^-2x)
    """
    z = t * (2.0 / softcap) + cut
    z = _limit(z, 126.0)
    power = tl.exp2(z)
    less_1 = tl.where(tl.abs(z) < 0.5, power_minus_1(z), power - 1.0)
    slopes = (2.0 * LOG2_E) * softcap * below * above
    return slopes * (less_1 / (below + above * power))  # in this order nothing overflows


@triton.jit
def score_tile(
    q, Key, Valid, Bias, start, rows, dims, size, length, window, scale, softcap,
    COUNT: tl.constexpr, KEY_STRIDE: tl.constexpr, CAPPED: tl.constexpr, CAUSAL: tl.constexpr, BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Computes the attention scores of COUNT keys from `start` on, times log2(e).

    Returns the keys (COUNT, LANES), which of them are valid (COUNT,), their attention scores before and after the soft
    cap, and which of them the rows see, (COUNT, ROWS) each. Scores after the cap are -inf where a key is hidden. Biases
    are added to the scores after the cap alone, where an infinite bias makes NaN.

    Args:
        q: (LANES, ROWS), the queries.
        Key: pointer to the keys of the head.
        Valid: pointer to the document's valid.
        Bias: pointer to the biases of the head's scores (length, length), used if BIASED.
        start: the first key.
        rows: (ROWS,), positions of the queries.
        dims: (LANES,), indices of the dimensions.
        size: dimensions of a head.
        length: tokens of the document.
        window: number of keys that a query sees.
        scale: factor of the attention scores, times log2(e).
        softcap: soft cap of the attention scores, used if CAPPED.
        COUNT: number of keys.
        KEY_STRIDE: stride between keys.
        CAPPED: whether there is a soft cap.
        CAUSAL: whether a row sees no keys after its own. Otherwise the window is the distance that it does not reach.
        BIASED: whether there are biases. There is no soft cap then.
        PRECISION: that of `product`.
    """
    c = tl.arange(0, COUNT)
    j = start + c
    valid = tl.load(Valid + j, mask=j < length, other=0) != 0
    at = Key + to_int64(start) * KEY_STRIDE + c[:, None] * KEY_STRIDE + dims[None, :]
    keys = tl.load(at, mask=valid[:, None] & (dims < size)[None, :], other=0.0)
    raw = product(keys, q, PRECISION) * scale
    if CAUSAL:
        visible = valid[:, None] & (j[:, None] <= rows[None, :]) & (rows[None, :] - j[:, None] < window)
    else:
        visible = valid[:, None] & (tl.abs(rows[None, :] - j[:, None]) < window)
    scores = raw
    if CAPPED:
        scores = _capped(raw, softcap)
    if BIASED:
        bias = Bias + rows.to(tl.int64)[None, :] * length + j[:, None]
        bias = tl.load(bias, mask=visible & (rows < length)[None, :], other=0.0)
        scores += LOG2_E * bias + 0.0 * bias
    return keys, valid, raw, tl.where(visible, scores, -float("inf")), visible


@triton.jit
def sweep(
    near, far, grow, shift, peak, log2_total, q, log2_sum, rows, dims, neuron, partner, sign,
    Key, Plain, Growth, Cos, Sin, Valid, Bias, Scratch,
    first, last, size, turned, length, window, scale, softcap,
    KEY_STRIDE: tl.constexpr, PLAIN_STRIDE: tl.constexpr, GROWTH_STRIDE: tl.constexpr, TABLE_STRIDE: tl.constexpr,
    KEYS: tl.constexpr, MODE: tl.constexpr, OF_KEYS: tl.constexpr, FAR: tl.constexpr, ROW_GROWTH: tl.constexpr,
    KEY_GROWTH: tl.constexpr, CAPPED: tl.constexpr, CAUSAL: tl.constexpr, BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Returns three sums over the keys [first, last), (ROWS, LANES) each.

    In the modes POWER and CAREFUL they are m = sum v, b1 = sum A v and b2 = sum v^2 with v = A (2^t - 1). In the mode
    ONLINE the first is the largest log2(A 2^t), the second is log2 sum A 2^t minus the first, and the third is zeros.
    CAREFUL takes these two as peak and log2_total, and subtracts them from t. It subtracts them from log2 A + t one
    after the other: where t is so large that its rounding exceeds 1, no A 2^t is then above 1.

    t = near X + far W + grow S + shift is the shifted change of the attention scores, times log2(e). With a soft cap it
    is the change of the capped scores, and shift is added after the cap. S are the attention scores before the cap.
    near, far, grow and shift are (ROWS, LANES). For query neurons X and W are k'[n] and k'[p], where p is n's partner.
    For key neurons (OF_KEYS) X and W are what key neuron n contributes to k'[n] and k'[p]. The growth of the key then
    takes the place of grow. far is used only if FAR, and grow only if ROW_GROWTH.
    """
    lanes: tl.constexpr = near.shape[1]
    unroll: tl.constexpr = UNROLL if MODE == POWER and not CAPPED else 1
    r, c = tl.arange(0, ROWS), tl.arange(0, KEYS)
    spot = Scratch + c[:, None] * ROWS + r[None, :]
    cell: tl.constexpr = KEYS * ROWS
    m = tl.zeros((ROWS, lanes), tl.float32)
    b1 = tl.zeros((ROWS, lanes), tl.float32)
    b2 = tl.zeros((ROWS, lanes), tl.float32)
    if MODE == ONLINE:
        m += -float("inf")
    for start in tl.range(first, last, KEYS):
        _keys, valid, raw, scores, _visible = score_tile(
            q, Key, Valid, Bias, start, rows, dims, size, length, window, scale, softcap,
            KEYS, KEY_STRIDE, CAPPED, CAUSAL, BIASED, PRECISION,
        )  # fmt: skip
        log2_a = scores - log2_sum[None, :]
        tl.debug_barrier()  # all threads have read the previous tile
        if MODE == POWER:
            small = log2_a < -90
            tl.store(spot, tl.exp2(tl.where(small, log2_a + 30.0, log2_a)) * tl.where(small, 1.0, A_SCALE))
        else:
            tl.store(spot, log2_a)
        if ROW_GROWTH or KEY_GROWTH:
            tl.store(spot + cell, raw)
        if CAPPED:
            tile_below, tile_above, tile_cut = cap_parts(raw, softcap)
            tl.store(spot + 2 * cell, tile_below)
            tl.store(spot + 3 * cell, tile_above)
            tl.store(spot + 4 * cell, tile_cut)
        tl.store(Scratch + 5 * cell + c, valid.to(tl.float32))
        tl.debug_barrier()  # the tile is complete before other threads read it
        for group in tl.range(0, tl.minimum(KEYS, last - start), unroll):
            j = to_int64(start + group)
            key = Key + j * KEY_STRIDE
            plain = Plain + j * PLAIN_STRIDE + neuron
            growths = Growth + j * GROWTH_STRIDE + neuron
            cos = Cos + j * TABLE_STRIDE + neuron
            sin = Sin + j * TABLE_STRIDE + partner
            for step in tl.static_range(unroll):
                i = group + step
                is_valid = tl.load(Scratch + 5 * cell + i + 0 * neuron) > 0
                if OF_KEYS:
                    x = tl.load(plain + step * PLAIN_STRIDE, mask=is_valid & (neuron < size), other=0.0).to(tl.float32)
                    if KEY_GROWTH:
                        growth = tl.load(growths + step * GROWTH_STRIDE, mask=is_valid & (neuron < size), other=0.0)
                        x *= 1.0 + growth
                    w = x
                    if FAR:
                        turns = is_valid & (neuron < turned)
                        w = x * sign * tl.load(sin + step * TABLE_STRIDE, mask=turns, other=0.0).to(tl.float32)
                        x *= tl.load(cos + step * TABLE_STRIDE, mask=turns, other=1.0).to(tl.float32)
                else:
                    x = tl.load(key + neuron + step * KEY_STRIDE, mask=is_valid & (neuron < size), other=0.0).to(
                        tl.float32
                    )
                    w = x
                    if FAR:
                        w = tl.load(key + partner + step * KEY_STRIDE, mask=is_valid & (neuron < size), other=0.0).to(
                            tl.float32
                        )
                a = tl.load(Scratch + i * ROWS + r)[:, None]
                if CAPPED:
                    t = near * x[None, :]
                else:
                    t = shift
                if FAR:
                    t = far * w[None, :] + t
                if ROW_GROWTH:
                    t = grow * tl.load(Scratch + cell + i * ROWS + r)[:, None] + t
                if KEY_GROWTH:
                    t = growth[None, :] * tl.load(Scratch + cell + i * ROWS + r)[:, None] + t
                if CAPPED:
                    below = tl.load(Scratch + 2 * cell + i * ROWS + r)[:, None]
                    above = tl.load(Scratch + 3 * cell + i * ROWS + r)[:, None]
                    cut = tl.load(Scratch + 4 * cell + i * ROWS + r)[:, None]
                    t = capped_change(t, below, above, cut, softcap) + shift
                else:
                    t = near * x[None, :] + t
                if MODE == POWER:
                    v = a * tl.exp2(t) - a
                if MODE == ONLINE:
                    term = a + t
                    new_max = tl.maximum(m, term)
                    b1 = b1 * tl.exp2(m - new_max) + tl.exp2(term - new_max)
                    b1 = tl.where(new_max == -float("inf"), 0.0, b1)
                    m = new_max
                if MODE == CAREFUL:
                    v = change_of_weight(a, t - (peak + log2_total), a + t - peak - log2_total)
                    a = tl.exp2(a)
                if MODE != ONLINE:
                    m += v
                    b1 += a * v
                    b2 += v * v
    if MODE == POWER:
        return m / A_SCALE, b1 / (A_SCALE * A_SCALE), b2 / (A_SCALE * A_SCALE)
    if MODE == ONLINE:
        return m, tl.log2(b1), b2
    return m, b1, b2
