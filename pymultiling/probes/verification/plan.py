"""What one forward of the verification checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Plan:
    """What one forward checks.

    Attributes:
        valid: (documents, length) bool, False for padding, on the CPU.
        kind: "as it is"; "off": neurons are off, which `OffWatch` checks; or "scores": only attention scores are
            checked.
        scores: whether attention scores are checked.
        wrong: {(attention, what was compared): bool}, whether the comparison failed in the forward "as it is". It is
            filled in that forward, and read in the one with neurons off.
    """

    valid: Tensor
    kind: Literal["as it is", "off", "scores"]
    scores: bool
    wrong: dict[tuple[nn.Module, str], Tensor] = field(default_factory=dict)
