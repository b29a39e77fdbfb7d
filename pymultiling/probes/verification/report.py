"""What the verification of a model found: which checks failed, at which module, and by how much."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor

from pymultiling.errors import UnsupportedModel
from pymultiling.probes.verification.advice import CALL

# "ffn", "q", "k", "v" and "o": the modules of a site compute what their weights say, hooks see it and can change it.
# "ffn once" to "o once": these modules are called once in a forward, with every token. "values": attention sums values
# up. "scores": attention probabilities. "product": act(gate) up. "layers": a layer's output is the next layer's input.
# "body": the model passes on to its base model what it gets.
Check: TypeAlias = Literal[
    "ffn",
    "q",
    "k",
    "v",
    "o",
    "ffn once",
    "q once",
    "k once",
    "v once",
    "o once",
    "values",
    "scores",
    "product",
    "layers",
    "body",
]
CHECKS: tuple[Check, ...] = get_args(Check)


@dataclass(frozen=True)
class Departure:
    """One place at which a model computes something else.

    Attributes:
        check: the check that failed.
        sentence: which module computes something else, what it should compute, and what to do.
        size: the difference, relative to what was expected; None where nothing was computed that could be compared.
    """

    check: Check
    sentence: str
    size: float | None = None


@dataclass(frozen=True)
class Verification:
    """The result of verifying a model.

    Attributes:
        departures: what the model computes differently, in the order of the layers.
        differences: {check: largest relative difference}, of the checks that were made.
        notes: what could not be checked, a sentence each.
        example: what the base model returns, without its tokens; None where nothing was checked.
    """

    departures: tuple[Departure, ...] = ()
    differences: dict[Check, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    example: Any = None

    def __add__(self, other: Verification) -> Verification:
        differences = self.differences | other.differences
        return Verification(self.departures + other.departures, differences, self.notes + other.notes, self.example)

    def require(self, checks: Iterable[Check]) -> None:
        """Refuses a model at which one of these checks failed.

        Raises:
            UnsupportedModel: the first departure.
        """
        needed = set(checks)
        for departure in self.departures:
            if departure.check in needed:
                raise UnsupportedModel(f"{departure.sentence}; verify=False (--no-verify) skips this check")


class Comparisons:
    """Collects comparisons on the devices on which they are made, and reads all results at once."""

    def __init__(self) -> None:
        self.example: Any = None
        self.departures: list[Departure] = []
        self.notes: list[str] = []
        self._made: list[tuple[Check, str, str, Tensor]] = []
        self._equal: set[Check] = set()

    def compare(self, check: Check, subject: str, advice: str, error: Tensor, tolerance: Tensor, size: Tensor) -> None:
        """Adds a comparison. It fails where an error exceeds its tolerance; NaN does not, since probes report it.

        Args:
            check: the check that fails.
            subject: which module does not compute what it should; the size of the difference follows it.
            advice: what to do.
            error: (N,), the norms of the differences.
            tolerance: (N,), how large rounding can make them.
            size: (N,), the norms of what was expected.
        """
        is_wrong = error > tolerance
        relative = error / size.clamp(min=torch.finfo(size.dtype).tiny)
        largest_wrong = relative.masked_fill(~is_wrong, 0).max()
        largest = relative.masked_fill(size == 0, 0).nan_to_num().max()
        result = torch.stack([is_wrong.any().to(relative.dtype), largest_wrong, largest])
        self._made.append((check, subject, advice, result))

    def agree(self, check: Check) -> None:
        """Adds a comparison of two tensors that are equal bit for bit, which needs no norms."""
        self._equal.add(check)

    @contextmanager
    def surviving(self, checks: Iterable[Check], name: str) -> Iterator[None]:
        """Inside, an error of a comparison that does not fit what a module gets or returns fails these checks."""
        try:
            yield
        except (UnsupportedModel, torch.OutOfMemoryError):
            raise
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            for check in checks:
                self.depart(check, f"{name} does not work as its family says ({error}): {CALL}")

    def depart(self, check: Check, sentence: str) -> None:
        """Adds a failure without a size."""
        self.departures.append(Departure(check, sentence))

    def add(self, other: Comparisons) -> None:
        """Adds what another one has collected."""
        self.departures += other.departures
        self.notes += other.notes
        self._made += other._made
        self._equal |= other._equal
        self.example = other.example or self.example

    def add_scores(self, other: Comparisons, where: str) -> None:
        """Adds the comparisons of attention scores that another one has made; `where` is appended to their subjects."""
        made = [(check, f"{subject} {where}", *rest) for check, subject, *rest in other._made if check == "scores"]
        self._made += cast("list[tuple[Check, str, str, Tensor]]", made)

    def result(self) -> Verification:
        """Waits for the devices, and returns what was found."""
        departures = list(self.departures)
        differences: dict[Check, float] = dict.fromkeys(self._equal, 0.0)
        by_device: dict[torch.device, list[int]] = defaultdict(list)
        for number, (*_, result) in enumerate(self._made):
            by_device[result.device].append(number)
        values: dict[int, list[float]] = {}
        for numbers in by_device.values():
            rows = torch.stack([self._made[number][3].double() for number in numbers]).tolist()
            values.update(zip(numbers, rows))
        for number, (check, subject, advice, _) in enumerate(self._made):
            is_wrong, largest_wrong, largest = values[number]
            differences[check] = max(differences.get(check, 0.0), largest)
            if is_wrong:
                sentence = f"{subject} (off by {largest_wrong:.2g} of its size): {advice}"
                departures.append(Departure(check, sentence, largest_wrong))
        return Verification(tuple(departures), differences, tuple(self.notes), self.example)
