"""Device and host functions that the kernels with sums over the tokens of each document share.

A program computes a block of columns of one document. Document indices may come in any order, though they mostly form
runs. So each program first reads all of them to find the first and the last token of its document. It reads the indices
of the tokens between these two again only if some belong to other documents.
"""

import triton
import triton.language as tl

from pymultiling.triton_kernels.launching import ceil_div

# Indices read at once, 16 by each of 128 threads. Twice as many cost gated_ffn 22 registers per thread (sm_90, Triton
# 3.9).
SCAN_ROWS = tl.constexpr(8)
SCAN_LANES = tl.constexpr(256)

# (bytes of a row that a program reads, threads of a program). A few long documents make few programs. These programs
# then get half the columns and twice the threads. A cache line has 128 bytes.
BLOCKS = ((256, 128), (128, 256))
PROGRAMS = 264  # enough programs to use a GPU fully: two for each multiprocessor of an H200


@triton.jit
def is_member(documents, step, t, read, count, document):
    """Returns which of the tokens t belong to `document`. document = -1: tokens with an index outside [0, count).

    Where `read` is False, the index is not read and the result is False. step: stride of `documents`. count: number of
    documents.
    """
    ids = tl.load(documents + t.to(tl.int64) * step, mask=read, other=0)
    return read & (tl.where((ids >= 0) & (ids < count), ids, -1).to(tl.int32) == document)


@triton.jit
def token_range(documents, step, tokens, count, document):
    """Returns (first, end, scattered): the document's tokens lie in [first, end).

    scattered: whether tokens of other documents lie in [first, end) too. If the document has no tokens, first >= end.
    step, count: as in `is_member`.
    """
    offsets = tl.arange(0, SCAN_ROWS)[:, None] * SCAN_LANES + tl.arange(0, SCAN_LANES)[None, :]
    first = tl.zeros((SCAN_LANES,), tl.int32) + tokens
    end = tl.zeros((SCAN_LANES,), tl.int32)
    members = tl.zeros((SCAN_LANES,), tl.int32)
    for start in range(0, tokens, SCAN_ROWS * SCAN_LANES):
        t = start + offsets
        in_document = is_member(documents, step, t, t < tokens, count, document)
        first = tl.minimum(first, tl.min(tl.where(in_document, t, tokens), 0))
        end = tl.maximum(end, tl.max(tl.where(in_document, t + 1, 0), 0))
        members += tl.sum(in_document.to(tl.int32), 0)
    begin, end = tl.min(first, 0), tl.max(end, 0)
    return begin, end, tl.sum(members, 0) != end - begin


@triton.jit
def add_rows(x, ROWS: tl.constexpr):
    """Adds ROWS rows of x (T, N), T / ROWS apart, which lie in the registers of one thread. Returns (T / ROWS, N)."""
    return tl.sum(tl.reshape(x, (ROWS, x.shape[0] // ROWS, x.shape[1])), 0)


def pick_block(width: int, itemsize: int, programs_per_block: int) -> tuple[int, int]:
    """Returns the first of BLOCKS that gives at least PROGRAMS programs, or the last.

    Args:
        width: number of columns.
        itemsize: bytes of a number.
        programs_per_block: number of programs for each block of columns.
    """
    enough = (block for block in BLOCKS if ceil_div(width * itemsize, block[0]) * programs_per_block >= PROGRAMS)
    return next(enough, BLOCKS[-1])


def tile(block: tuple[int, int], itemsize: int, rows: int) -> dict[str, int]:
    """Returns the constants of a tile of which each thread holds 16 bytes in each of `rows` rows.

    Args:
        block: one of BLOCKS.
        itemsize: bytes of a number.
        rows: rows of the tile that a thread holds.
    """
    row_bytes, threads = block
    return {"BLOCK_T": rows * threads * 16 // row_bytes, "BLOCK_N": row_bytes // itemsize, "ROWS": rows}
