"""The processes of a run: one, or those that torchrun or accelerate launch started."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from pymultiling.errors import ProcessLost, UnsupportedModel

# A process that is done waits for the slowest one; torchrun ends it if another fails.
PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Processes:
    """Processes that share the work, or that run one model together and all do the same; ProcessLost where one of them has ended.

    Attributes:
        rank, count: this process's number among those that share the work, and how many they are.
        first: whether this is the process that prints and writes.
        one_model: each has a part of the model, so that they do the same work.
    """

    rank: int = 0
    count: int = 1
    first: bool = True
    one_model: bool = False
    _group: object = None

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self._group is not None

    def agreed(self, value):
        """The first process's value, where all do the same work; otherwise each one's own."""
        if not self.one_model:
            return value
        values = [value]
        with _others_there():
            distributed.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def gathered(self, value) -> list:
        """Every process's value, in their order."""
        if not self.several:
            return [value]
        values = [None] * distributed.get_world_size(self._group)
        with _others_there():
            distributed.all_gather_object(values, value, group=self._group)
        return values

    def total(self, values: Tensor) -> Tensor:
        """Sums over all processes, on the CPU."""
        return self._reduced(values, distributed.ReduceOp.SUM)

    def least(self, values: Tensor) -> Tensor:
        """Minima over all processes, on the CPU."""
        return self._reduced(values, distributed.ReduceOp.MIN)

    def _reduced(self, values: Tensor, how) -> Tensor:
        if self.count == 1:
            return values
        values = values.clone()
        with _others_there():
            distributed.all_reduce(values, how, group=self._group)
        return values


@contextmanager
def _others_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost("another process has ended before its work was done: what it printed says why") from error


def join_processes() -> None:
    """Starts torch.distributed where torchrun or accelerate launch started this process and nobody else has."""
    started = int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ
    if not started or not distributed.is_available() or distributed.is_initialized():
        return
    store, rank, count = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store = _fresh(store, rank, count)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)


def _fresh(store: distributed.Store, rank: int, count: int) -> distributed.Store:
    """A part of the store that is this start's alone.

    After a restart torchrun's store still has the addresses of the processes before (pytorch/pytorch#135712), and nothing that
    all processes know tells one start from another. So the first one makes up a name and answers everybody who asks for it,
    until all have it.
    """
    if rank == 0:
        name, answered, started = f"pymultiling-{uuid.uuid4()}", 0, time.monotonic()
        while store.add(f"{name}-known", 0) < count - 1:
            if time.monotonic() - started > store.timeout.total_seconds():
                raise RuntimeError(f"{answered} of {count - 1} other processes have come in {store.timeout}")
            asked = store.add("pymultiling-asked", 0)
            for number in range(answered, asked):
                store.set(f"pymultiling-answer-{number + 1}", name)
            answered = asked
            time.sleep(0.01)
    else:
        name = store.get(f"pymultiling-answer-{store.add('pymultiling-asked', 1)}").decode()
        store.add(f"{name}-known", 1)
    return distributed.PrefixStore(name, store)


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    return int(os.environ.get("RANK", 0)) == 0


@contextmanager
def processes(spread_over: int = 1) -> Iterator[Processes]:
    """Those of the block; statistics are on the CPU, so gloo carries them beside nccl too.

    Args:
        spread_over: how many of them have a part of the model.

    Raises:
        UnsupportedModel: they are some of all processes only.
    """
    join_processes()
    count = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    if spread_over not in (1, count):
        raise UnsupportedModel(
            f"the model is spread over {spread_over} of {count} processes: spread it over all, or none"
        )
    if count == 1:
        yield Processes()
        return
    group, rank = distributed.new_group(backend="gloo", timeout=PATIENCE), distributed.get_rank()
    one_model = spread_over > 1
    number, of = (0, 1) if one_model else (rank, count)
    try:
        yield Processes(number, of, rank == 0, one_model, group)
    finally:
        distributed.destroy_process_group(group)
