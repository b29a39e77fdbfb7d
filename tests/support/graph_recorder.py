"""Records functions on the CPU, in place of CUDA graphs: a replay computes them again, into the same memory."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch

from pymultiling.probes import graphed_batches
from pymultiling.runtime.graphs import Function, Results


class Recordings:
    """A recorder for `Graphs`.

    Attributes:
        made: number of recordings.
        replays: number of replays.
        error: raised in the middle of every recording, if it is not None.
    """

    def __init__(self) -> None:
        self.made = self.replays = 0
        self.error: BaseException | None = None
        self._memory: list[weakref.ref[torch.Tensor]] = []

    def __call__(self, function: Function, inputs: tuple[torch.Tensor, ...]) -> tuple[Callable[[], None], Results]:
        results = tuple(
            {name: torch.full_like(x, torch.nan) for name, x in group.items()} for group in function(*inputs)
        )
        self._memory.append(weakref.ref(next(iter(results[0].values()))))
        if self.error is not None:
            raise type(self.error)(*self.error.args)  # a new one, because errors refer to the memory of their calls
        self.made += 1

        def replay() -> None:
            self.replays += 1
            for group, new_group in zip(results, function(*inputs), strict=True):
                for name, memory in group.items():
                    memory.copy_(new_group[name])

        return replay, results

    def kept(self) -> int:
        """Returns how many recordings still have their memory."""
        return sum(memory() is not None for memory in self._memory)


@contextmanager
def graphs_on_the_cpu() -> Iterator[Recordings]:
    """Inside, probes record models on the CPU."""
    recordings = Recordings()
    with mock.patch.multiple(graphed_batches, CudaRecorder=lambda _: recordings, why_not_recorded=lambda _: None):
        yield recordings
