"""The files of a training run: the last checkpoint and the loss curve."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import ClassVar

import torch

from pymultiling.demo_model import LANGUAGES
from pymultiling.runtime.storage import write_atomically

CHECKPOINT = "checkpoint.pt"
CURVE = "losses.csv"


def save_checkpoint(path: Path, content: dict) -> None:
    """Saves a checkpoint. The old file is replaced when the new one is complete."""
    with write_atomically(path) as partial:
        torch.save(content, partial)


class Curve:
    """The loss curve as a CSV file. If a run resumes from the step `start`, the rows of later steps are dropped."""

    columns: ClassVar = ["step", "train_loss", "lr", "cpu_seconds", *LANGUAGES]

    def __init__(self, path: Path, start: int) -> None:
        rows = [row for row in read_curve(path) if int(row["step"]) <= start] if start else []
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, self.columns, restval="")
        self._writer.writeheader()
        self._writer.writerows(rows)
        self._file.flush()

    def add(self, **row: object) -> None:
        """Appends a row and prints it."""
        self._writer.writerow(row)
        self._file.flush()
        print(" ".join(f"{name}={value}" for name, value in row.items()), flush=True)


def read_curve(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a loss curve; none if the file does not exist."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
