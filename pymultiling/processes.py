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

# A process that is done waits for the slowest one; torchrun ends it if another fails.
PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Processes:
    """This process's number and how many there are."""

    rank: int = 0
    count: int = 1
    _group: object = None

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

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
        distributed.all_reduce(values, how, group=self._group)
        return values


def join() -> None:
    """Starts torch.distributed where torchrun or accelerate launch started this process and nobody else has."""
    started = int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ
    if not started or not distributed.is_available() or distributed.is_initialized():
        return
    store, rank, count = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, store=_fresh(store, rank, count), rank=rank, world_size=count)


def _fresh(store: distributed.Store, rank: int, count: int) -> distributed.Store:
    """A part of the store that is this start's alone.

    After a restart torchrun's store still has the addresses of the processes before (pytorch/pytorch#135712), and nothing that
    all processes know tells one start from another. So the first one makes up a name and answers everybody who asks for it,
    until all have it.
    """
    if rank == 0:
        name, answered = f"pymultiling-{uuid.uuid4()}", 0
        while store.add(f"{name}-known", 0) < count - 1:
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
def processes() -> Iterator[Processes]:
    """Those that share the work of the block; statistics are on the CPU, so gloo carries them beside nccl too."""
    join()
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        yield Processes()
        return
    group = distributed.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), group)
    finally:
        distributed.destroy_process_group(group)
