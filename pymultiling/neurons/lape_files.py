"""Files of LAPE's published code: torch files with list[language][layer] of LongTensors, indices of FFN neurons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pymultiling.errors import CheckpointError, type_and_text
from pymultiling.runtime.storage import write_atomically
from pymultiling.runtime.tensor_files import shorten

LAYOUT = "lists by language and layer of int64 tensors (n,), the indices of the FFN neurons"


def read_lape(path: str | Path, width: int) -> list[Tensor]:
    """Returns a mask (layers, width) bool for each language, True for the neurons that the file lists.

    Raises:
        CheckpointError: there is no such file, or it is damaged, has another layout, or does not fit the width.
        ValueError: `width` is below 1.
    """
    if width < 1:
        raise ValueError(f"width must be the model's FFN width, at least 1, got {width!r}")
    languages = _load(Path(path))
    if not isinstance(languages, list) or not languages:
        raise _other_layout(path, f"it holds {_describe(languages)}")
    masks: list[Tensor] = []
    for number, layers in enumerate(languages, 1):
        if not isinstance(layers, list) or not layers:
            raise _other_layout(path, f"language {number} is {_describe(layers)}")
        if len(layers) != len(languages[0]):
            raise _other_layout(
                path, f"language 1 has {len(languages[0])} layers and language {number} has {len(layers)}"
            )
        mask = torch.zeros(len(layers), width, dtype=torch.bool)
        for layer, indices in enumerate(layers):
            where = f"language {number}, layer {layer}"
            if (
                type(indices) is not Tensor
                or indices.dtype != torch.int64
                or indices.layout != torch.strided
                or indices.ndim != 1
                or indices.is_meta
            ):
                raise _other_layout(path, f"{where} is {_describe(indices)}")
            # Also guards against a view that repeats one stored number billions of times.
            if len(indices) > width:
                raise _other_width(path, f"{where} has {len(indices):,} neurons", width)
            if len(indices) and not (0 <= int(indices.min()) and int(indices.max()) < width):
                low, high = int(indices.min()), int(indices.max())
                raise _other_width(path, f"{where} has the indices {low} to {high}", width)
            mask[layer, indices] = True
        masks.append(mask)
    return masks


def write_lape(masks: Sequence[Tensor], path: str | Path) -> None:
    """Writes a mask (layers, width) bool for each language as `read_lape` reads it.

    Raises:
        OSError: the file cannot be written. An existing file stays as it was.
    """
    layout = [[row.nonzero().squeeze(1) for row in mask] for mask in masks]
    # An open file, since torch.save stores the name of a path that it is given.
    with write_atomically(path) as partial, partial.open("wb") as file:
        torch.save(layout, file)


def _load(path: Path) -> object:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a file of LAPE's published code")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - unpickling damaged bytes raises almost any exception
        raise CheckpointError(
            f"{path} is not a torch file with plain tensors, or is damaged ({shorten(type_and_text(error))}); expected "
            f"{LAYOUT}"
        ) from None


def _other_layout(path: str | Path, fault: str) -> CheckpointError:
    return CheckpointError(f"{path} has not the layout of LAPE's published code: {fault}; expected {LAYOUT}")


def _other_width(path: str | Path, fault: str, width: int) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged or of another model: {fault}, and the FFN of this model has {width:,} neurons; give the "
        "width of the model that was measured"
    )


def _describe(value: object) -> str:
    """Describes a value for a message: its dtype and shape, or its type and length."""
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"an empty {type(value).__name__}" if value in ([], {}, ()) else f"a {type(value).__name__}"
