"""Times several functions alternately, so that ratios of their times hold even if the machine's speed drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def alternate(
    runs: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Runs all functions in turn, a b c, a b c, ..., after one warm-up round.

    Args:
        runs: {name: function}.
        rounds: how often each function is timed.
        clock: returns the seconds.

    Returns:
        The seconds of every function in every round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> float:
    """Returns the median over the rounds of the time of `name` divided by the time of `base` in the same round."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[base]))
