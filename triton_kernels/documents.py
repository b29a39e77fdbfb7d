"""Sums over the tokens of each document: what the kernels share.

A program takes a block of columns of one document. Ids may come in any order, though they mostly are runs, so it reads them
all once, for the first and the last of its own and whether others lie between; only then does it look at ids again.
"""

import triton
import triton.language as tl

# Ids read at once, 16 by each of 128 threads. Twice as many cost gated_ffn 22 registers a thread (sm_90, Triton 3.9).
SCAN_ROWS = tl.constexpr(8)
SCAN_LANES = tl.constexpr(256)

# (bytes of a row that a program takes, its threads). A few long documents make few programs: they get half the columns and
# twice the threads. Rows of 128 bytes are the shortest that are whole cache lines.
BLOCKS = ((256, 128), (128, 256))
PROGRAMS = 264  # two for each multiprocessor of an H200


@triton.jit
def is_member(documents, step, t, read, count, document):
    """Whether tokens t are `document`'s; -1 stands for padding, every id outside [0, count). False where not `read`."""
    ids = tl.load(documents + t.to(tl.int64) * step, mask=read, other=0)
    return read & (tl.where((ids >= 0) & (ids < count), ids, -1).to(tl.int32) == document)


@triton.jit
def token_range(documents, step, tokens, count, document):
    """(first, end, scattered): its tokens lie in [first, end), empty where end < first; scattered: others do too."""
    lane = tl.arange(0, SCAN_ROWS)[:, None] * SCAN_LANES + tl.arange(0, SCAN_LANES)[None, :]
    first = tl.zeros((SCAN_LANES,), tl.int32) + tokens
    end = tl.zeros((SCAN_LANES,), tl.int32)
    number = tl.zeros((SCAN_LANES,), tl.int32)
    for start in range(0, tokens, SCAN_ROWS * SCAN_LANES):
        t = start + lane
        own = is_member(documents, step, t, t < tokens, count, document)
        first = tl.minimum(first, tl.min(tl.where(own, t, tokens), 0))
        end = tl.maximum(end, tl.max(tl.where(own, t + 1, 0), 0))
        number += tl.sum(own.to(tl.int32), 0)
    begin, end = tl.min(first, 0), tl.max(end, 0)
    return begin, end, tl.sum(number, 0) != end - begin


@triton.jit
def add_rows(x, ROWS: tl.constexpr):
    """(T, N) -> (T / ROWS, N): adds rows T / ROWS apart, which a thread holds in its registers: no exchange."""
    return tl.sum(tl.reshape(x, (ROWS, x.shape[0] // ROWS, x.shape[1])), 0)


def pick_block(width: int, itemsize: int, programs_a_block: int) -> tuple[int, int]:
    """The first of BLOCKS that makes enough programs, or the last."""
    enough = (block for block in BLOCKS if triton.cdiv(width * itemsize, block[0]) * programs_a_block >= PROGRAMS)
    return next(enough, BLOCKS[-1])


def tile(block: tuple[int, int], itemsize: int, rows: int) -> dict[str, int]:
    """The tile of which each thread holds 16 bytes of `rows` rows."""
    row_bytes, threads = block
    return {"BLOCK_T": rows * threads * 16 // row_bytes, "BLOCK_N": row_bytes // itemsize, "ROWS": rows}
