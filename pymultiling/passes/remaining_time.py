"""How long the rest of a pass over several corpora takes, from what is known of their sizes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

from pymultiling.data.shards import Shard, corpus_size
from pymultiling.runtime.progress import format_duration


class RemainingTime:
    """Estimates the remaining time of a pass from the speed so far, in bytes or records for each second.

    Sizes in one unit are compared with each other only, since a compressed byte takes longer than one of plain text.
    The time of a corpus whose size is unknown, or of whose unit nothing was measured yet, is left out.

    Args:
        corpora: the shards of every corpus, in the order in which they are measured.
        ended: which of them were measured before.
        tokens: how many tokens of each are measured at most; None: all. It is then taken for the size of every corpus
            to come, which may have fewer, so that the time is said to be at most so long.
    """

    def __init__(self, corpora: Sequence[Sequence[Shard]], ended: Sequence[bool], tokens: int | None = None):
        self._is_limited = tokens is not None
        self._sizes = [("tokens", float(tokens)) if tokens else corpus_size(shards) for shards in corpora]
        self._fractions_left = [0.0 if is_ended else 1.0 for is_ended in ended]
        self._amounts: dict[str, float] = defaultdict(float)
        self._seconds: dict[str, float] = defaultdict(float)
        self._number: int | None = None
        self._done: float | None = None
        self._clock = 0.0

    def begin(self, number: int, resumes: bool) -> None:
        """Notes that a corpus begins, and that those before it have ended. resumes: whether a part was done before."""
        for earlier in range(number):
            self._fractions_left[earlier] = 0.0
        self._number, self._done, self._clock = number, None if resumes else 0.0, time.monotonic()

    def update(self, done: float | None) -> str:
        """Returns the remaining time as text, "at least" it if not all is known, or "" if nothing is.

        done: the fraction of the corpus that is done, 0 to 1, or None if it is unknown.
        """
        assert self._number is not None
        size = self._sizes[self._number]
        if done is not None and size is not None and (self._done is None or done > self._done):
            unit, total = size
            now = time.monotonic()
            # What was done before the first update of a corpus that resumes took none of the seconds measured here.
            if self._done is not None:
                self._amounts[unit] += (done - self._done) * total
                self._seconds[unit] += now - self._clock
            self._done, self._clock = done, now
            self._fractions_left[self._number] = 1.0 - done
        return self._describe()

    def end(self) -> str:
        """Notes that the corpus has ended, and returns the remaining time as `update` does."""
        assert self._number is not None
        self._fractions_left[self._number] = 0.0
        return self._describe()

    def _describe(self) -> str:
        seconds, is_complete = 0.0, True
        for size, fraction in zip(self._sizes, self._fractions_left):
            if fraction == 0:
                continue
            if size is None or not self._amounts[size[0]]:
                is_complete = False
            else:
                seconds += fraction * size[1] * self._seconds[size[0]] / self._amounts[size[0]]
        if not seconds:
            return ""
        bound = ""
        if not is_complete:
            bound = "at least "
        elif self._is_limited and self._has_corpora_to_come():
            bound = "at most "
        return f"{bound}{format_duration(seconds)} left"

    def _has_corpora_to_come(self) -> bool:
        assert self._number is not None
        return any(self._fractions_left[self._number + 1 :])
