"""Random sets of neurons, which the effect of a set is compared with. Imports no heavy packages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymultiling.neurons.sets import NeuronSet

DRAWS = 5  # of random sets for each set, in the commands: enough to see how far the draws lie apart


def random_name(name: str, draw: int) -> str:
    """Returns the name of a random set with as many neurons as set `name`, in each site and layer."""
    return f"random {draw} as {name}"


def add_random_sets(sets: Mapping[str, NeuronSet], draws: int, seed: int) -> dict[str, NeuronSet]:
    """Returns the sets and, for each, random sets of the same size.

    Args:
        sets: {name: NeuronSet}.
        draws: how many random sets are drawn for each set.
        seed: draw d, counted from 1, for set number n, counted from 0, has the seed seed + n + (d - 1) * number of
            sets.

    Raises:
        ValueError: `draws` is below 0, or a set already has the name of a random set.
    """
    if draws < 0:
        raise ValueError(f"the number of random sets must be at least 0, got {draws}")
    result = dict(sets)
    for number, (name, neurons) in enumerate(sets.items()):
        for draw in range(1, draws + 1):
            drawn = random_name(name, draw)
            if drawn in sets:
                raise ValueError(f"{drawn!r} is the name of a random set: give the set another name")
            result[drawn] = neurons.random_like(seed + number + (draw - 1) * len(sets))
    return result


def draws_by_set(names: Iterable[str]) -> dict[str, list[str]]:
    """Returns {set: the names of its random sets} for the names that are in a table; sets without any are left out."""
    names = list(names)
    draws: dict[str, list[str]] = {}
    for name in names:
        match = re.fullmatch(r"random \d+ as (.*)", name, re.DOTALL)
        if match is not None and match[1] in names:
            draws.setdefault(match[1], []).append(name)
    return draws
