"""Device functions of qk_estimate: the choice of keys, for ROWS rows at once (qk_estimate.py has the definition).

Attention scores are in the program's scratch memory, row after row, so that one warp reads all keys of a row, and
reading them again costs little. They are multiplied by log2(e). The keys get their slots from a running sum, in which
each certain key adds one unit and each other key adds A R / M units. Slot s goes to the key at which the sum passes
s + o. So a certain key gets one slot, whatever comes before it, and the other keys are drawn as if there were no
certain keys.
"""

import triton
import triton.language as tl

from pymultiling.triton_kernels.qk_sweep import ROWS, cap_parts, infinite_to_nan, log2_add, score_tile

SLOTS = tl.constexpr(16)
MAX_CERTAIN = tl.constexpr(8)  # certain keys of a row, unless more keys pass the highest threshold
HIGHEST_THRESHOLD = tl.constexpr(-3.836501267717121)  # log2 of 0.07: at most 14 keys pass it
THRESHOLDS = tl.constexpr(8)  # each is half of the previous one
UNIT_BITS = tl.constexpr(26)
UNIT = tl.constexpr(2**26)  # one unit of the running sum, which is an integer: its value is the same in any order
GOLDEN_FRACTION = tl.constexpr(0x9E3779B9)  # fraction of the golden ratio, times 2^32
SMALLEST_MASS = tl.constexpr(2.0**-120)  # smallest sum of the other keys' A for which keys are drawn

# Arrays (ROWS, SLOTS) in the scratch memory. The first has the key, an integer. Then follow its weight for the even
# draws and for the odd draws, both times A, the log2 of A and of both weights, the attention score before the cap, and
# the three numbers of `cap_parts`.
EVEN, ODD, EVEN_A, ODD_A = (tl.constexpr(i) for i in range(1, 5))
LOG2_A, LOG2_EVEN, LOG2_ODD, RAW, BELOW, ABOVE, CUT = (tl.constexpr(i) for i in range(5, 12))
ARRAYS = tl.constexpr(12)
CELL = tl.constexpr(ROWS.value * SLOTS.value)


@triton.jit
def as_integers(Pointers):
    """Converts pointers to floats into pointers to integers."""
    return Pointers.to(tl.pointer_type(tl.int32), bitcast=True)


@triton.jit
def square_sums(Slots):
    """Returns the pointer to each row's sum of weight times A: (ROWS,) for the even draws, then for the odd draws."""
    return Slots + ARRAYS * CELL


@triton.jit
def sink_logs(Slots):
    """Returns the pointer to log2 of the sink's probability in each row, (ROWS,). It is there only with sinks."""
    return square_sums(Slots) + 2 * ROWS


@triton.jit
def scores_of(Slots, SINKS: tl.constexpr):
    """Returns the pointer to the attention scores (ROWS, span), the last array of the scratch memory."""
    return square_sums(Slots) + (3 if SINKS else 2) * ROWS


@triton.jit
def padded_span(length, window, KEYS: tl.constexpr, CAUSAL: tl.constexpr):
    """Returns the largest number of keys that a tile of rows sees, rounded up to a multiple of KEYS."""
    sides: tl.constexpr = 1 if CAUSAL else 2
    return tl.cdiv(tl.minimum(sides * window + ROWS, length), KEYS) * KEYS


@triton.jit
def scratch_size(span, CAPPED: tl.constexpr, SINKS: tl.constexpr, BIASED: tl.constexpr):
    """Returns the number of floats of a program's scratch memory.

    It contains the arrays of slots, the square sums, with sinks log2 of their probabilities, and the attention scores,
    with a soft cap or biases also those before them.
    """
    return ARRAYS * CELL + (3 if SINKS else 2) * ROWS + (2 if CAPPED or BIASED else 1) * ROWS * span


def scratch_of(length: int, window: int, keys: int, capped: bool, sinks: bool, causal: bool, biased: bool) -> int:
    """Returns what `scratch_size` returns, on the host. keys: KEYS. window: keys that a query sees up to its own."""
    sides = 1 if causal else 2
    span = triton.cdiv(min(sides * window + ROWS.value, length), keys) * keys
    return ARRAYS.value * CELL.value + (2 + sinks + (1 + (capped or biased)) * span) * ROWS.value


@triton.jit
def store_scores(
    q, rows, dims, Key, Valid, Bias, Scores, span, first, last, size, length, window, scale, softcap,
    KEYS: tl.constexpr, KEY_STRIDE: tl.constexpr, CAPPED: tl.constexpr, CAUSAL: tl.constexpr, BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Stores the attention scores of all rows, times log2(e), -inf where a key is hidden and NaN where one is infinite.

    The keys are those in [first, last), and the next ones up to a multiple of KEYS, which are hidden: `choose` reads
    whole tiles. A tile of scores is (KEYS, ROWS) and is stored transposed.

    Args:
        q: (LANES, ROWS), the queries. LANES is `size` rounded up to a power of two, at least 16.
        rows: (ROWS,), positions of the queries.
        dims: (LANES,), indices of the dimensions.
        Key: pointer to the keys of the head.
        Valid: pointer to the document's valid.
        Bias: pointer to the biases of the head's scores (length, length), used if BIASED.
        Scores: pointer to the result (ROWS, span). If CAPPED or BIASED, it has the scores after the cap or with the
            biases, and a second array (ROWS, span) behind it those before, which are not -inf where a key is hidden.
        span: distance between the rows of Scores, from `padded_span`.
        first: the first key that the rows see.
        last: the end of the keys that the rows see.
        size: dimensions of a head.
        length: tokens of the document.
        window: number of keys that a query sees.
        scale: factor of the attention scores, times log2(e).
        softcap: soft cap of the attention scores, used if CAPPED.
        KEYS: keys of a tile.
        KEY_STRIDE: stride between keys.
        CAPPED: whether there is a soft cap.
        CAUSAL: whether a row sees no keys after its own.
        BIASED: whether there are biases. There is no soft cap then.
        PRECISION: that of `product`.
    """
    tl.debug_barrier()  # all threads have finished the previous item, whose scores are overwritten
    for start in tl.range(first, last, KEYS):
        _keys, _valid, raw, scores, visible = score_tile(
            q, Key, Valid, Bias, start, rows, dims, size, length, window, scale, softcap,
            KEYS, KEY_STRIDE, CAPPED, CAUSAL, BIASED, PRECISION,
        )  # fmt: skip
        at = Scores + tl.arange(0, ROWS)[None, :] * span + tl.arange(0, KEYS)[:, None] + (start - first)
        tl.store(at, infinite_to_nan(scores, raw, visible))
        if CAPPED or BIASED:
            tl.store(at + ROWS * span, raw)
    tl.debug_barrier()  # the scores of all threads are stored, for threads that read other rows and keys


@triton.jit
def _softmax(at, key_count, own_key, log2_sink, KEYS: tl.constexpr, SINKS: tl.constexpr, CAUSAL: tl.constexpr):
    """Returns log2 of the softmax's denominator, the number of keys that the row sees and that of those up to its own.

    Each is (ROWS,). at: pointers to the attention scores of each row's first keys, (ROWS, KEYS). key_count: number of
    keys. own_key: (ROWS,), the row's own key, used unless CAUSAL. log2_sink: the sink's score times log2(e), used if
    SINKS.
    """
    row_max = tl.full((ROWS, KEYS), -float("inf"), tl.float32)
    for column in tl.range(0, key_count, KEYS):
        row_max = tl.maximum(row_max, tl.load(at + column))
    row_max = tl.max(row_max, 1)
    base = tl.where(row_max == -float("inf"), 0.0, row_max)
    total = tl.zeros((ROWS, KEYS), tl.float32)
    counts = tl.zeros((ROWS, KEYS), tl.int32)
    if not CAUSAL:
        up_to_own = tl.zeros((ROWS, KEYS), tl.int32)
    for column in tl.range(0, key_count, KEYS):
        scores = tl.load(at + column)
        total += tl.exp2(scores - base[:, None])
        counts += (scores != -float("inf")).to(tl.int32)
        if not CAUSAL:
            is_up_to_own = (column + tl.arange(0, KEYS))[None, :] <= own_key[:, None]
            up_to_own += ((scores != -float("inf")) & is_up_to_own).to(tl.int32)
    log2_sum = base + tl.log2(tl.sum(total, 1))
    if SINKS:
        log2_sum = log2_add(log2_sum, log2_sink)
    counts = tl.sum(counts, 1)
    numbers = counts
    if not CAUSAL:
        numbers = tl.sum(up_to_own, 1)
    return log2_sum, counts, numbers


@triton.jit
def _lowest_threshold(at, key_count, log2_sum, KEYS: tl.constexpr):
    """Returns the lowest of the thresholds that at most MAX_CERTAIN keys of a row pass, or the highest if none fits.

    It is returned as an attention score, log2 A + log2_sum, (ROWS,). The thresholds are THRESHOLDS numbers that are 1
    apart in log2, so bisection finds it.

    Args:
        at: pointers to the attention scores of each row's first keys, (ROWS, KEYS).
        key_count: number of keys.
        log2_sum: (ROWS,), log2 of the softmax's denominator, from `_softmax`.
        KEYS: keys of a tile.
    """
    limit = log2_sum + HIGHEST_THRESHOLD
    step = THRESHOLDS // 2
    while step > 0:
        lower = limit - step
        count = tl.zeros((ROWS, KEYS), tl.int32)
        for column in tl.range(0, key_count, KEYS):
            count += (tl.load(at + column) > lower[:, None]).to(tl.int32)
        limit = tl.where(tl.sum(count, 1) <= MAX_CERTAIN, lower, limit)
        step = step // 2
    return limit


@triton.jit
def choose(
    Scores, Slots, span, rows, first, last, softcap, log2_sink,
    KEYS: tl.constexpr, WITH_SCORES: tl.constexpr, CAPPED: tl.constexpr, SINKS: tl.constexpr,
    CAUSAL: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """Chooses the keys of each row and fills the arrays of Slots. Returns the largest number of keys that a row sees.

    Slots that stay empty have weight 0 and the key at the row's own position.

    Args:
        Scores: pointer to the attention scores, from `store_scores`.
        Slots: pointer to the arrays of slots.
        span: distance between the rows of Scores.
        rows: (ROWS,), positions of the queries.
        first: the first key that the rows see.
        last: the end of the keys that the rows see.
        softcap: soft cap of the attention scores, used if CAPPED.
        log2_sink: the sink's score times log2(e), used if SINKS.
        KEYS: keys of a tile.
        WITH_SCORES: whether to fill the array of attention scores before the cap and without biases.
        CAPPED: whether there is a soft cap.
        SINKS: whether there is a sink. `sink_logs` then points to log2 of its probabilities.
        CAUSAL: whether a row sees no keys after its own.
        BIASED: whether the attention scores have biases.
    """
    r, slot = tl.arange(0, ROWS), tl.arange(0, SLOTS)
    key_count = last - first
    row_of = Scores + r * span
    at = row_of[:, None] + tl.arange(0, KEYS)[None, :]
    log2_sum, counts, numbers = _softmax(at, key_count, rows - first, log2_sink, KEYS, SINKS, CAUSAL)
    limit = tl.where(counts <= SLOTS, -float("inf"), _lowest_threshold(at, key_count, log2_sum, KEYS))
    certain_count = tl.zeros((ROWS, KEYS), tl.int32)
    mass = tl.zeros((ROWS, KEYS), tl.float32)
    for column in tl.range(0, key_count, KEYS):
        scores = tl.load(at + column)
        certain = scores > limit[:, None]
        certain_count += certain.to(tl.int32)
        mass += tl.where(certain, 0.0, tl.exp2(scores - log2_sum[:, None]))
    certain_count, mass = tl.sum(certain_count, 1), tl.sum(mass, 1)
    draws = tl.where(mass >= SMALLEST_MASS, (SLOTS - certain_count) // 2 * 2, 0)
    per_mass = 1.0 / tl.where(draws > 0, mass, 1.0)
    units = tl.where(draws > 0, (draws * UNIT).to(tl.float32), 0.0)
    offset = ((numbers.to(tl.uint32) * GOLDEN_FRACTION) >> (32 - UNIT_BITS)).to(tl.int32)

    spot = Slots + r[:, None] * SLOTS + slot[None, :]
    tl.store(as_integers(spot), tl.full((ROWS, SLOTS), -1, tl.int32))
    tl.debug_barrier()  # all slots are empty before keys are stored in them
    running = tl.zeros((ROWS,), tl.int32) + UNIT - 1 - offset
    for column in tl.range(0, key_count, KEYS):
        scores = tl.load(at + column)
        a = tl.exp2(scores - log2_sum[:, None]) * per_mass[:, None] * units[:, None]
        units_of_key = tl.where(scores > limit[:, None], UNIT, tl.where(a > 0, a + 0.5, 0.0).to(tl.int32))
        running_end = running[:, None] + tl.cumsum(units_of_key, 1)
        slot_end = tl.minimum(running_end >> UNIT_BITS, (certain_count + draws)[:, None])
        slot_begin = (running_end - units_of_key) >> UNIT_BITS
        first_slot = Slots + r[:, None] * SLOTS + slot_begin
        tl.store(
            as_integers(first_slot),
            (column + tl.arange(0, KEYS))[None, :] + 0 * units_of_key,
            mask=slot_begin < slot_end,
        )
        running += tl.sum(units_of_key, 1)
    tl.debug_barrier()  # all keys are stored before other threads read them

    column = tl.load(as_integers(spot))
    slot_key = tl.associative_scan(column, 1, _larger)
    own_key = (rows - first)[:, None]
    at = row_of[:, None] + tl.where(slot_key < 0, own_key, slot_key)
    scores = tl.load(at)
    passes = scores > limit[:, None]
    certain = passes & (column >= 0)
    # A key that several draws select is stored in the first of their slots.
    drawn = (slot_key >= 0) & ~passes & (slot[None, :] < (certain_count + draws)[:, None])
    odd = (slot[None, :] - tl.cumsum(certain.to(tl.int32), 1)) % 2 == 1
    step = tl.where(drawn, (2.0 * mass / tl.maximum(draws, 1).to(tl.float32))[:, None], 0.0)
    step = tl.where((mass != mass)[:, None], mass[:, None], step)
    log2_a = scores - log2_sum[:, None]
    a = tl.exp2(log2_a)
    even_step, odd_step = tl.where(odd, 0.0, step), tl.where(odd, step, 0.0)
    even, odd = tl.where(certain, a, even_step), tl.where(certain, a, odd_step)
    tl.debug_barrier()  # all threads have read the keys before they are overwritten
    tl.store(as_integers(spot), first + tl.where(slot_key < 0, own_key, slot_key))
    tl.store(spot + EVEN * CELL, even)
    tl.store(spot + ODD * CELL, odd)
    tl.store(spot + EVEN_A * CELL, even * a)
    tl.store(spot + ODD_A * CELL, odd * a)
    tl.store(spot + LOG2_A * CELL, log2_a)
    tl.store(spot + LOG2_EVEN * CELL, tl.where(certain, log2_a, tl.log2(even_step)))
    tl.store(spot + LOG2_ODD * CELL, tl.where(certain, log2_a, tl.log2(odd_step)))
    squares = square_sums(Slots) + r
    tl.store(squares, tl.sum(even * a, 1))
    tl.store(squares + ROWS, tl.sum(odd * a, 1))
    if SINKS:
        tl.store(sink_logs(Slots) + r, log2_sink - log2_sum)
    if WITH_SCORES or CAPPED:
        raw = scores
        if CAPPED or BIASED:
            raw = tl.load(at + ROWS * span)
        if CAPPED:
            below, above, cut = cap_parts(raw, softcap)
            tl.store(spot + BELOW * CELL, below)
            tl.store(spot + ABOVE * CELL, above)
            tl.store(spot + CUT * CELL, cut)
        if WITH_SCORES:
            tl.store(spot + RAW * CELL, raw)
    tl.debug_barrier()  # the arrays are complete before other threads read them
    return tl.max(counts, 0)


@triton.jit
def _larger(a, b):
    """Returns the maximum: the operation of a scan."""
    return tl.maximum(a, b)
