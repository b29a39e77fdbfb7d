"""qk_estimate's choice of keys, for ROWS rows at once (qk_estimate.py has the definition).

Scores lie in the program's scratch, row after row, so that a row's keys are in one warp, and reading them once more
costs little. Of a running sum a certain key takes one unit, another key A R / M, and slot s goes to the key at which the
sum passes s + o: a certain key gets one slot, whatever comes before it, and draws fall on the others as from them alone.
"""

import triton
import triton.language as tl

from pymultiling.triton_kernels.qk_sweep import ROWS, cap_parts, score_tile

SLOTS = tl.constexpr(16)
CERTAIN = tl.constexpr(8)  # keys of a row, unless the highest threshold lets more pass
HIGHEST = tl.constexpr(-3.836501267717121)  # log2 of 0.07: at most 14 keys pass
THRESHOLDS = tl.constexpr(8)  # each half of the one before
BITS = tl.constexpr(26)
UNIT = tl.constexpr(2**26)  # running sums are integers, which add up to the same in any order
TURN = tl.constexpr(0x9E3779B9)  # the golden ratio's fraction, of 2^32
SMALLEST_MASS = tl.constexpr(2.0**-120)  # of a rest that is worth a draw

# What the scratch holds of every slot: its key (an integer); its weight with the even draws and with the odd ones, and
# both times A; the logarithms of A and of the weights; S; for a cap 1/(1+e^2x), 1/(1+e^-2x), cut.
EVEN, ODD, EVEN_A, ODD_A = (tl.constexpr(i) for i in range(1, 5))
LOG2_A, LOG2_EVEN, LOG2_ODD, RAW, BELOW, ABOVE, CUT = (tl.constexpr(i) for i in range(5, 12))
ARRAYS = tl.constexpr(12)
CELL = tl.constexpr(ROWS.value * SLOTS.value)


@triton.jit
def integers(Pointers):
    return Pointers.to(tl.pointer_type(tl.int32), bitcast=True)


@triton.jit
def squares_of(Slots):
    """Where a row's sums of weight times A are: with the even draws, and ROWS behind it with the odd ones."""
    return Slots + ARRAYS * CELL


@triton.jit
def span_of(length, window, KEYS: tl.constexpr):
    """The most keys that a tile of rows sees, in tiles of keys."""
    return tl.cdiv(tl.minimum(window + ROWS, length), KEYS) * KEYS


@triton.jit
def scratch_size(span, CAPPED: tl.constexpr):
    """Of a program: the slots' arrays, squares_of, scores, and what they are before a cap."""
    return ARRAYS * CELL + 2 * ROWS + (2 if CAPPED else 1) * ROWS * span


def scratch_of(length: int, window: int, keys: int, capped: bool) -> int:
    """scratch_size, on the host."""
    span = triton.cdiv(min(window + ROWS.value, length), keys) * keys
    return ARRAYS.value * CELL.value + (2 + (1 + capped) * span) * ROWS.value


@triton.jit
def store_scores(
    q, rows, dims, Key, Valid, Scores, span, first, last, size, length, window, scale, softcap,
    KEYS: tl.constexpr, KEY_STRIDE: tl.constexpr, CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tl.debug_barrier()
    for start in tl.range(first, last, KEYS):
        _keys, _valid, raw, scores = score_tile(
            q, Key, Valid, start, rows, dims, size, length, window, scale, softcap, KEYS, KEY_STRIDE, CAPPED, PRECISION
        )
        at = Scores + tl.arange(0, ROWS)[None, :] * span + tl.arange(0, KEYS)[:, None] + (start - first)
        tl.store(at, scores)
        if CAPPED:
            tl.store(at + ROWS * span, raw)
    tl.debug_barrier()


@triton.jit
def _softmax(at, seen, KEYS: tl.constexpr):
    """Of every row: log2 of the softmax's denominator, and how many keys it sees."""
    most = tl.full((ROWS, KEYS), -float("inf"), tl.float32)
    for column in tl.range(0, seen, KEYS):
        most = tl.maximum(most, tl.load(at + column))
    most = tl.max(most, 1)
    base = tl.where(most == -float("inf"), 0.0, most)
    total = tl.zeros((ROWS, KEYS), tl.float32)
    counts = tl.zeros((ROWS, KEYS), tl.int32)
    for column in tl.range(0, seen, KEYS):
        scores = tl.load(at + column)
        total += tl.exp2(scores - base[:, None])
        counts += (scores != -float("inf")).to(tl.int32)
    return base + tl.log2(tl.sum(total, 1)), tl.sum(counts, 1)


@triton.jit
def _lowest_threshold(at, seen, log2_sum, KEYS: tl.constexpr):
    """The lowest that at most CERTAIN keys pass, as a score, by bisection."""
    limit = log2_sum + HIGHEST
    step = THRESHOLDS // 2
    while step > 0:
        lower = limit - step
        count = tl.zeros((ROWS, KEYS), tl.int32)
        for column in tl.range(0, seen, KEYS):
            count += (tl.load(at + column) > lower[:, None]).to(tl.int32)
        limit = tl.where(tl.sum(count, 1) <= CERTAIN, lower, limit)
        step = step // 2
    return limit


@triton.jit
def choose(
    Scores, Slots, span, rows, first, last, softcap, KEYS: tl.constexpr, WITH_SCORES: tl.constexpr, CAPPED: tl.constexpr
):  # fmt: skip
    """Fills Slots. What stays empty has weight 0 and names the row's own key."""
    r, slot = tl.arange(0, ROWS), tl.arange(0, SLOTS)
    seen = last - first
    row_of = Scores + r * span
    at = row_of[:, None] + tl.arange(0, KEYS)[None, :]
    log2_sum, counts = _softmax(at, seen, KEYS)
    limit = tl.where(counts <= SLOTS, -float("inf"), _lowest_threshold(at, seen, log2_sum, KEYS))
    number = tl.zeros((ROWS, KEYS), tl.int32)
    mass = tl.zeros((ROWS, KEYS), tl.float32)
    for column in tl.range(0, seen, KEYS):
        scores = tl.load(at + column)
        certain = scores > limit[:, None]
        number += certain.to(tl.int32)
        mass += tl.where(certain, 0.0, tl.exp2(scores - log2_sum[:, None]))
    number, mass = tl.sum(number, 1), tl.sum(mass, 1)
    draws = tl.where(mass >= SMALLEST_MASS, (SLOTS - number) // 2 * 2, 0)
    per_mass = 1.0 / tl.where(draws > 0, mass, 1.0)
    units = tl.where(draws > 0, (draws * UNIT).to(tl.float32), 0.0)
    offset = ((counts.to(tl.uint32) * TURN) >> (32 - BITS)).to(tl.int32)

    spot = Slots + r[:, None] * SLOTS + slot[None, :]
    tl.store(integers(spot), tl.full((ROWS, SLOTS), -1, tl.int32))
    tl.debug_barrier()
    passed = tl.zeros((ROWS,), tl.int32) + UNIT - 1 - offset
    for column in tl.range(0, seen, KEYS):
        scores = tl.load(at + column)
        a = tl.exp2(scores - log2_sum[:, None]) * per_mass[:, None] * units[:, None]
        part = tl.where(scores > limit[:, None], UNIT, tl.where(a > 0, a + 0.5, 0.0).to(tl.int32))
        to = passed[:, None] + tl.cumsum(part, 1)
        after = tl.minimum(to >> BITS, (number + draws)[:, None])
        before = (to - part) >> BITS
        place = Slots + r[:, None] * SLOTS + before
        tl.store(integers(place), (column + tl.arange(0, KEYS))[None, :] + 0 * part, mask=before < after)
        passed += tl.sum(part, 1)
    tl.debug_barrier()

    column = tl.load(integers(spot))
    met = tl.associative_scan(column, 1, _larger)
    own = (rows - first)[:, None]
    at = row_of[:, None] + tl.where(met < 0, own, met)
    scores = tl.load(at)
    above = scores > limit[:, None]
    certain = above & (column >= 0)
    # A key that is met by several draws has only the first of their slots.
    drawn = (met >= 0) & ~above & (slot[None, :] < (number + draws)[:, None])
    odd = (slot[None, :] - tl.cumsum(certain.to(tl.int32), 1)) % 2 == 1
    step = tl.where(drawn, (2.0 * mass / tl.maximum(draws, 1).to(tl.float32))[:, None], 0.0)
    step = tl.where((mass != mass)[:, None], mass[:, None], step)
    log2_a = scores - log2_sum[:, None]
    a = tl.exp2(log2_a)
    even_step, odd_step = tl.where(odd, 0.0, step), tl.where(odd, step, 0.0)
    even, odd = tl.where(certain, a, even_step), tl.where(certain, a, odd_step)
    tl.debug_barrier()
    tl.store(integers(spot), first + tl.where(met < 0, own, met))
    tl.store(spot + EVEN * CELL, even)
    tl.store(spot + ODD * CELL, odd)
    tl.store(spot + EVEN_A * CELL, even * a)
    tl.store(spot + ODD_A * CELL, odd * a)
    tl.store(spot + LOG2_A * CELL, log2_a)
    tl.store(spot + LOG2_EVEN * CELL, tl.where(certain, log2_a, tl.log2(even_step)))
    tl.store(spot + LOG2_ODD * CELL, tl.where(certain, log2_a, tl.log2(odd_step)))
    squares = squares_of(Slots) + r
    tl.store(squares, tl.sum(even * a, 1))
    tl.store(squares + ROWS, tl.sum(odd * a, 1))
    if WITH_SCORES or CAPPED:
        raw = scores
        if CAPPED:
            raw = tl.load(at + ROWS * span)
            below, above, cut = cap_parts(raw, softcap)
            tl.store(spot + BELOW * CELL, below)
            tl.store(spot + ABOVE * CELL, above)
            tl.store(spot + CUT * CELL, cut)
        if WITH_SCORES:
            tl.store(spot + RAW * CELL, raw)
    tl.debug_barrier()


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)
