"""Device and host functions that the kernels with sums over the tokens of each document share.

A program computes a block of columns of one document, or of the tokens of no document. `offsets` and `order` are those
of `pymultiling.mathematics.documents.Documents`. The tokens of a document mostly lie side by side. A program then reads
only the first and the last of them from `order`, because they ascend.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pymultiling.mathematics.documents import group_tokens
from pymultiling.triton_kernels.launching import ceil_div

# (bytes of a row that a program reads, threads of a program). A few long documents make few programs. These programs
# then get half the columns and twice the threads. A cache line has 128 bytes.
BLOCKS = ((256, 128), (128, 256))
PROGRAMS = 264  # enough programs to use a GPU fully: two for each multiprocessor of an H200


@triton.jit
def find_document(offsets, order, tokens, count, document):
    """Returns (begin, length, first, scattered) of a document. document = count: the tokens of no document.

    The document's tokens are order[begin], ..., order[begin + length - 1]. If `scattered` is False, they are first,
    ..., first + length - 1. That holds if order = None, where order[i] is i.
    """
    begin = tl.load(offsets + document)
    end = tl.load(offsets + document + 1, mask=document < count, other=tokens)
    first = begin
    scattered = False
    if order is not None:  # noqa: SIM102, this is decided when Triton compiles, the other when the kernel runs
        if begin < end:
            first = tl.load(order + begin)
            scattered = tl.load(order + end - 1) - first != end - 1 - begin
    return begin, end - begin, first, scattered


@triton.jit
def find_tokens(order, begin, first, scattered, i, in_document):
    """Returns the document's tokens number i, from the results of `find_document`. in_document: i < length."""
    t = first + i
    if order is not None:  # noqa: SIM102, as above
        if scattered:
            t = tl.load(order + begin + i, mask=in_document, other=0)
    return t


@triton.jit
def add_rows(x, ROWS: tl.constexpr):
    """Adds ROWS rows of x (T, N), T / ROWS apart, which lie in the registers of one thread. Returns (T / ROWS, N)."""
    return tl.sum(tl.reshape(x, (ROWS, x.shape[0] // ROWS, x.shape[1])), 0)


def document_pointers(in_order: bool) -> tuple[dict[str, str], dict[str, None]]:
    """Returns Triton's types of the arguments `offsets` and `order`, and those of the two that are None.

    in_order: whether the tokens are in the order of their documents already, so that order = None.
    """
    return ({"offsets": "*i32"}, {"order": None}) if in_order else ({"offsets": "*i32", "order": "*i32"}, {})


def grouped(
    documents: Tensor, count: int, offsets: Tensor | None, order: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Returns offsets and order of the documents. They are computed if the caller gives the document indices alone."""
    if offsets is not None:
        return offsets, order
    documents = group_tokens(documents, count)
    return documents.offsets, documents.order


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
