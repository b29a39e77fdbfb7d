"""Whether the processes of a pass agree: they were called in the same way, and read the same texts."""

from __future__ import annotations

from collections.abc import Mapping

from pymultiling.errors import CorpusError
from pymultiling.runtime.processes import Processes


def check_same_call(team: Processes, call: Mapping[str, object]) -> None:
    """ValueError, in all processes, where one of them was called with other arguments; `call` is this one's."""
    first, *others = team.gathered(call)
    for number, other in enumerate(others, 2):
        for name in {**first, **other}:
            if first.get(name) != other.get(name):
                raise ValueError(
                    f"all processes must make the same call, with whole corpora: {name} of process 1: {first.get(name)}, of "
                    f"process {number}: {other.get(name)}"
                )


def check_same_texts(team: Processes, read: Mapping[str, Mapping[int, tuple[str, str]]]) -> None:
    """CorpusError, in all processes, where two of them read the same part of a corpus, and it was not the same.

    Args:
        read: {corpus: {part: its fingerprint, and a hash of its rows}}, what this process read.
    """
    seen: dict[tuple[str, int], str] = {}
    for theirs in team.gathered(read):
        for name, parts in theirs.items():
            for part, (_, rows) in parts.items():
                if seen.setdefault((name, part), rows) != rows:
                    raise CorpusError(
                        f"corpus {name!r} is not the same in all processes: give each the whole of it, in the same order"
                    )
