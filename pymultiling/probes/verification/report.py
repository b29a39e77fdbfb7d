"""What the verification of a model found: which checks failed, at which module, and by how much."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

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
        size: the difference, relative to what was expected; infinite where zero was expected; None where nothing was
            computed that could be compared.
    """

    check: Check
    sentence: str
    size: float | None = None


@dataclass(frozen=True)
class Verification:
    """The result of verifying a model.

    Attributes:
        departures: what the model computes differently, in the order of the layers.
        differences: {check: largest difference}, of the checks that were made, relative to the largest norm of what was
            expected of the same module. Other columns may be so small that nothing but rounding is left of them.
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


class _Comparison(NamedTuple):
    """The arguments of `Comparisons.compare`."""

    check: Check
    subject: str
    advice: str
    error: Tensor
    tolerance: Tensor
    size: Tensor


class Comparisons:
    """Collects comparisons on the devices on which they are made, and evaluates all of them at once."""

    def __init__(self) -> None:
        self.example: Any = None
        self.departures: list[Departure] = []
        self.notes: list[str] = []
        self._made: list[_Comparison] = []
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
        if not error.numel() or not error.shape == tolerance.shape == size.shape:
            raise ValueError(f"{len(error)} numbers cannot be compared with {len(size)}")
        self._made.append(_Comparison(check, subject, advice, error, tolerance, size))

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
        self._made += [
            comparison._replace(subject=f"{comparison.subject} {where}")
            for comparison in other._made
            if comparison.check == "scores"
        ]

    def result(self) -> Verification:
        """Waits for the devices, and returns what was found."""
        departures = list(self.departures)
        differences: dict[Check, float] = dict.fromkeys(self._equal, 0.0)
        by_device: dict[torch.device, list[int]] = defaultdict(list)
        for number, comparison in enumerate(self._made):
            by_device[comparison.error.device].append(number)
        values: dict[int, list[float]] = {}
        for numbers in by_device.values():
            values.update(zip(numbers, _evaluate([self._made[number] for number in numbers])))
        for number, (check, subject, advice, *_) in enumerate(self._made):
            is_wrong, largest_wrong, largest_beside_zero, largest_error, largest_size = values[number]
            if largest_size:
                difference = max(largest_wrong, largest_error / largest_size)
            else:
                difference = math.inf if is_wrong else 0.0
            differences[check] = max(differences.get(check, 0.0), difference)
            if is_wrong:
                off_by = f"{largest_wrong:.2g} of its size" if largest_wrong else f"{largest_beside_zero:.2g} from zero"
                departures.append(Departure(check, f"{subject} (off by {off_by}): {advice}", largest_wrong or math.inf))
        return Verification(tuple(departures), differences, tuple(self.notes), self.example)


def _evaluate(made: list[_Comparison]) -> list[list[float]]:
    """Evaluates comparisons of one device, whose columns are put together, so that this takes few operations.

    Returns:
        For each comparison whether it failed, its largest relative error above a tolerance, its largest error above a
        tolerance where zero was expected, which has no relative error, its largest error, and its largest size.
    """
    error, tolerance, size = (
        torch.cat([getattr(each, name) for each in made]) for name in ("error", "tolerance", "size")
    )
    is_wrong, is_zero = error > tolerance, size < torch.finfo(size.dtype).tiny
    relative, beside_zero = (
        (error / size).masked_fill(~is_wrong | is_zero, 0),
        error.masked_fill(~is_wrong | ~is_zero, 0),
    )
    parts = (
        is_wrong.to(size.dtype),
        relative,
        beside_zero,
        error.nan_to_num(),
        size.nan_to_num().masked_fill(is_zero, 0),
    )
    columns = torch.split(torch.stack(parts), [len(each.error) for each in made], 1)
    rows: list[list[float]] = torch.stack([each.amax(1) for each in columns]).tolist()
    return rows
