"""Checks that the processes of a pass made the same call and read the same texts."""

from __future__ import annotations

from collections.abc import Mapping

from pymultiling.errors import CorpusError
from pymultiling.runtime.processes import Processes


def check_same_call(team: Processes, call: Mapping[str, object]) -> None:
    """Checks that all processes were called with the same arguments.

    Args:
        team: the processes, all of which have to make this call.
        call: the arguments of this process.

    Raises:
        ValueError: two processes differ. It is raised in all processes.
    """
    first, *rest = team.gather(call)
    for number, other_call in enumerate(rest, 2):
        for name in {**first, **other_call}:
            if first.get(name) != other_call.get(name):
                raise ValueError(
                    "all processes must make the same call, with whole corpora: "
                    f"{name} of process 1: {first.get(name)}, "
                    f"of process {number}: {other_call.get(name)}"
                )


def check_same_texts(team: Processes, read: Mapping[str, Mapping[int, tuple[str, str]]]) -> None:
    """Checks that the processes that read the same shard of a corpus read the same texts.

    Args:
        team: the processes, all of which have to make this call.
        read: {corpus: {number of a shard: (its fingerprint, hash of its records)}}, the shards that this process read.

    Raises:
        CorpusError: two processes differ. It is raised in all processes.
    """
    hashes: dict[tuple[str, int], str] = {}
    for corpora in team.gather(read):
        for name, shards in corpora.items():
            for shard, (_, records_hash) in shards.items():
                if hashes.setdefault((name, shard), records_hash) != records_hash:
                    raise CorpusError(
                        f"corpus {name!r} is not the same in all processes: give each process the whole corpus, "
                        "in the same order"
                    )
