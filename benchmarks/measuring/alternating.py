"""Timing several things in turn, so that a ratio holds while the machine's speed drifts."""

import statistics
import time
from collections.abc import Callable


def alternate(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every run in every round: a b c, a b c, ... after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> float:
    """Median over the rounds of name's time over base's in the same round."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[base]))
