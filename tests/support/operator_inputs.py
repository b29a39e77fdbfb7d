"""Inputs that the operators' tests share."""

from contextlib import nullcontext
from unittest import mock

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from pymultiling import triton_kernels

# The fixtures are made once a module and hold no state of an example.
examples = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

counts = st.integers(0, 5)
layouts = st.sampled_from(["contiguous", "row stride", "column stride", "transposed"])


def interpreted(backend: str) -> bool:
    """Whether it runs in Triton's interpreter, which takes some milliseconds a program and tile."""
    return backend == "triton" and triton_kernels.interpreted()


def tokens(backend: str):
    return st.sampled_from([0, 1, 7, 63, 129] if interpreted(backend) else [0, 1, 2, 7, 63, 129, 300])


def widths(backend: str):
    small = [1, 16, 63, 65, 129]
    return st.sampled_from(small if interpreted(backend) else [*small, 2, 15, 17, 64, 127, 200])


def long(backend: str, tokens: int) -> int:
    """A document's length: as long as it may be, and still some of the kernels' spans."""
    return tokens // 10 if interpreted(backend) else tokens


def block_of_columns(data, backend: str):
    """Triton kernels run with wide blocks where programs would else be many, and with narrow ones."""
    if backend != "triton":
        return nullcontext()
    return mock.patch("pymultiling.triton_kernels.documents.PROGRAMS", data.draw(st.sampled_from([0, 10**6])))


def dtypes(backend: str) -> list[torch.dtype]:
    others = {"cpp": [], "triton": [torch.float16], "torch": [torch.float64, torch.float16]}
    return [torch.float32, torch.bfloat16, *others[backend]]


def matrix(seed: int, rows: int, columns: int, dtype: torch.dtype, layout: str = "contiguous") -> Tensor:
    torch.manual_seed(seed)
    if layout == "row stride":
        return torch.randn(rows, columns + 5).to(dtype)[:, 3 : 3 + columns]
    if layout == "column stride":
        return torch.randn(rows, 2 * columns).to(dtype)[:, ::2]
    if layout == "transposed":
        return torch.randn(columns, rows).to(dtype).T
    return torch.randn(rows, columns).to(dtype)


def document_ids(seed: int, tokens: int, count: int) -> Tensor:
    """Runs of ids in any order, padding among them, some documents without a token."""
    torch.manual_seed(seed)
    if count == 0:
        return torch.full((tokens,), -1)
    return torch.randint(-1, count, (tokens // 3 + 1,)).repeat_interleave(3)[:tokens]


def mask_sets(seed: int, tokens: int, width: int, sets: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.rand(sets, width) < 0.4, torch.randint(-1, sets, (tokens,))


def per_document(values: Tensor, documents: Tensor, count: int) -> Tensor:
    """The plainest sum: one document after another, in the dtype of `values`."""
    return torch.stack([values[documents == c].sum(0) for c in range(count)]) if count else values[:0]
