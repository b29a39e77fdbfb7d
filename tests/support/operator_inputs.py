"""Inputs that the tests of the operators share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from unittest import mock

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from pymultiling import triton_kernels

# The health checks on fixtures are suppressed: these fixtures hold no state of an example.
examples = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

document_counts = st.integers(0, 5)
layouts = st.sampled_from(["contiguous", "row stride", "column stride", "transposed"])


def is_interpreted(backend: str) -> bool:
    """Returns whether a backend runs in Triton's interpreter, which takes milliseconds for each program and tile."""
    return backend == "triton" and triton_kernels.interpreted()


def token_counts(backend: str) -> st.SearchStrategy[int]:
    """Returns a strategy for numbers of tokens."""
    return st.sampled_from([0, 1, 7, 63, 129] if is_interpreted(backend) else [0, 1, 2, 7, 63, 129, 300])


def widths(backend: str) -> st.SearchStrategy[int]:
    """Returns a strategy for numbers of neurons."""
    small = [1, 16, 63, 65, 129]
    return st.sampled_from(small if is_interpreted(backend) else [*small, 2, 15, 17, 64, 127, 200])


def long_length(backend: str, tokens: int) -> int:
    """Returns the length of a long document: shorter in the interpreter, but still several spans of the kernels."""
    return tokens // 10 if is_interpreted(backend) else tokens


def any_block_size(data: st.DataObject, backend: str) -> AbstractContextManager[object]:
    """Inside the block, Triton kernels use wide or narrow blocks of columns, as drawn, for any number of programs."""
    if backend != "triton":
        return nullcontext()
    return mock.patch("pymultiling.triton_kernels.documents.PROGRAMS", data.draw(st.sampled_from([0, 10**6])))


def dtypes(backend: str) -> list[torch.dtype]:
    """Returns the dtypes that a backend supports."""
    further = {"cpp": [], "triton": [torch.float16], "torch": [torch.float64, torch.float16]}
    return [torch.float32, torch.bfloat16, *further[backend]]


def matrix(seed: int, rows: int, columns: int, dtype: torch.dtype, layout: str = "contiguous") -> Tensor:
    """Returns a random matrix with the given memory layout."""
    torch.manual_seed(seed)
    if layout == "row stride":
        return torch.randn(rows, columns + 5).to(dtype)[:, 3 : 3 + columns]
    if layout == "column stride":
        return torch.randn(rows, 2 * columns).to(dtype)[:, ::2]
    if layout == "transposed":
        return torch.randn(columns, rows).to(dtype).T
    return torch.randn(rows, columns).to(dtype)


def document_ids(seed: int, tokens: int, count: int) -> Tensor:
    """Returns document indices (tokens,) in runs of a few tokens.

    The runs are in any order, with padding among them, and some documents may have no tokens.
    """
    torch.manual_seed(seed)
    if count == 0:
        return torch.full((tokens,), -1)
    return torch.randint(-1, count, (tokens // 3 + 1,)).repeat_interleave(3)[:tokens]


def mask_sets(seed: int, tokens: int, width: int, sets: int = 3) -> tuple[Tensor, Tensor]:
    """Returns masks of random sets (sets, width) bool, and the set of each token (tokens,), -1 for none."""
    torch.manual_seed(seed)
    return torch.rand(sets, width) < 0.4, torch.randint(-1, sets, (tokens,))


def per_document(values: Tensor, documents: Tensor, count: int) -> Tensor:
    """Returns the sums of `values` (tokens, N) over each document, (count, N), one document after another."""
    return torch.stack([values[documents == c].sum(0) for c in range(count)]) if count else values[:0]
