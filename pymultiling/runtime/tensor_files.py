"""Reads safetensors files that `save_tensors` wrote. Everything is checked against a declared schema before use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pymultiling.errors import CheckpointError
from pymultiling.runtime.storage import TENSOR_COUNT, parse_metadata

MAX_TENSORS = 100_000  # of a file: far more than any model of the library gives, and few enough to list in a second
MAX_COUNT = 2**63 - 1
# {dtype: its name in a safetensors file}, of those that the library writes
DTYPE_NAMES = {torch.uint8: "U8", torch.int32: "I32", torch.int64: "I64", torch.float32: "F32", torch.float64: "F64"}
FLOATS = (torch.float32, torch.float64)

Number: TypeAlias = float | int


@dataclass(frozen=True)
class TensorSchema:
    """What a tensor of a file must be.

    Attributes:
        dtypes: the dtypes that it may have.
        shape: its dimensions: a size, or a name. Dimensions of the same name have the same size in the whole file.
        least: the smallest value; None: no bound.
        most: the largest value; None: no bound.
        finite: False: values may be infinite. They may never be NaN.
    """

    dtypes: tuple[torch.dtype, ...]
    shape: tuple[str | int, ...]
    least: Number | None = None
    most: Number | None = None
    finite: bool = True


class TensorFile:
    """An open safetensors file of a known format, as `open_tensors` yields it.

    Attributes:
        path: the file.
        metadata: {name: text}, as `save_tensors` wrote it, with "format".
        shapes: {name: shape} of all tensors.
    """

    def __init__(self, path: Path, file: Any):
        """Takes an open file: `file` is a handle of safetensors, which has no types."""
        self.path, self._file = path, file
        self.metadata = parse_metadata(file.metadata() or {})
        names: list[str] = file.keys()
        if len(names) > MAX_TENSORS:
            raise self.damaged(f"it has {len(names):,} tensors, and no file of this library has so many")
        # Earlier files lack the count.
        if TENSOR_COUNT in self.metadata and self.count(TENSOR_COUNT) != len(names):
            raise self.damaged(f"it has {len(names):,} tensors, and {self.count(TENSOR_COUNT):,} were written")
        slices = {name: file.get_slice(name) for name in names}
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(part.get_shape()) for name, part in slices.items()}
        self._dtypes: dict[str, str] = {name: part.get_dtype() for name, part in slices.items()}

    def damaged(self, fault: str) -> CheckpointError:
        """Returns the error for a file with a fault."""
        return CheckpointError(f"{self.path} is damaged: {fault}; create it again")

    def text(self, name: str) -> str:
        """Returns a text of the metadata.

        Raises:
            CheckpointError: there is none.
        """
        if name not in self.metadata:
            raise self.damaged(f"its metadata lack {name!r}")
        return self.metadata[name]

    def count(self, name: str) -> int:
        """Returns a count of the metadata, 0 to 2^63 - 1.

        Raises:
            CheckpointError: there is none.
        """
        text = self.text(name)
        # Python would also read "1_000", " 1" and the digits of other scripts.
        if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) > MAX_COUNT:
            raise self.damaged(f"{name!r} in its metadata must be a whole number of at least 0, got {shorten(text)!r}")
        return int(text)

    def read(self, schemas: Mapping[str, TensorSchema]) -> dict[str, Tensor]:
        """Reads all tensors of the file.

        Args:
            schemas: {name: what the tensor must be}.

        Returns:
            {name: tensor}, on the CPU, in the order of the schemas.

        Raises:
            CheckpointError: a tensor is missing, is not in the schemas or does not agree with them.
        """
        unknown = next((name for name in self.shapes if name not in schemas), None)
        if unknown is not None:
            raise self.damaged(f"it has a tensor {shorten(unknown)!r}, which does not belong there")
        sizes: dict[str, int] = {}
        for name, schema in schemas.items():
            self._check_header(name, schema, sizes)
        tensors: dict[str, Tensor] = {name: self._file.get_tensor(name) for name in schemas}
        for name, tensor in tensors.items():
            fault = _fault_of_values(tensor, schemas[name])
            if fault is not None:
                raise self.damaged(f"tensor {name!r} {fault}")
        return tensors

    def _check_header(self, name: str, schema: TensorSchema, sizes: dict[str, int]) -> None:
        """Checks name, dtype and shape of a tensor. `sizes` has the named dimensions so far, and gets those of this."""
        if name not in self.shapes:
            raise self.damaged(f"it lacks the tensor {name!r}")
        dtype, shape = self._dtypes[name], self.shapes[name]
        if dtype not in (allowed := [DTYPE_NAMES[dtype] for dtype in schema.dtypes]):
            raise self.damaged(f"tensor {name!r} must be {' or '.join(allowed)}, got {dtype}")
        if len(shape) != len(schema.shape) or any(
            size != (sizes.setdefault(expected, size) if isinstance(expected, str) else expected)
            for size, expected in zip(shape, schema.shape)
        ):
            described = ", ".join(
                f"{size} {sizes[size]}" if isinstance(size, str) and size in sizes else str(size)
                for size in schema.shape
            )
            raise self.damaged(f"tensor {name!r} has the shape {shape}, expected ({described})")


@contextmanager
def open_tensors(path: str | Path, form: str, description: str) -> Iterator[TensorFile]:
    """Opens a file that `save_tensors` wrote, and checks its format.

    Args:
        path: the file.
        form: the format that the file must have, such as "pymultiling.neurons/1".
        description: what error messages call a file of this format, such as "a set of neurons".

    Raises:
        CheckpointError: there is no such file, it is damaged, or it has another format.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected {description}")
    try:
        with safe_open(path, framework="pt") as handle:
            file = TensorFile(path, handle)
            if file.metadata.get("format") != form:
                other = file.metadata.get("format")
                kind = "another safetensors file" if other is None else shorten(other)
                raise CheckpointError(f"{path} is {kind}; expected {description} ({form})")
            yield file
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not {description}, or is damaged ({shorten(str(error))}); create it again"
        ) from None


def shorten(text: str) -> str:
    """Returns a text from a file for a message, cut after 80 characters."""
    return text if len(text) <= 80 else f"{text[:80]}..."


def _fault_of_values(tensor: Tensor, schema: TensorSchema) -> str | None:
    """Returns what is wrong with the values of a tensor, or None."""
    if not tensor.numel():
        return None
    low, high = (value.item() for value in tensor.aminmax())  # both are NaN if any value is
    if low != low:
        return "has NaN"
    if schema.finite and max(abs(low), abs(high)) == float("inf"):
        return "has infinite values"
    if schema.least is not None and low < schema.least:
        return f"has the value {low}, the smallest that is possible is {schema.least}"
    if schema.most is not None and high > schema.most:
        return f"has the value {high}, the largest that is possible is {schema.most}"
    return None
