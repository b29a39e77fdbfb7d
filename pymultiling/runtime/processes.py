"""The processes of a run: a single one, or those that torchrun or accelerate launch started."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # torch does not export them explicitly
from torch.distributed.rendezvous import rendezvous

from pymultiling.errors import ProcessLost, UnsupportedModel

T = TypeVar("T")

# How long a process that has finished waits for the slowest one. If another process fails, torchrun ends this one.
TIMEOUT = timedelta(days=30)


@dataclass(frozen=True)
class Processes:
    """The processes of a run. They either share the work, or each has a part of the model and all do the same work.

    Every method that exchanges values has to be called by all processes. It raises ProcessLost if one of them has
    ended.

    Attributes:
        rank: number of this process among those that share the work, 0 in every process if they all do the same work.
        count: how many processes share the work, 1 if they all do the same work.
        first: whether this is the process that prints and writes.
        one_model: whether each process has a part of the model, so that all do the same work.
    """

    rank: int = 0
    count: int = 1
    first: bool = True
    one_model: bool = False
    _group: distributed.ProcessGroup | None = None

    @property
    def several(self) -> bool:
        """Whether there is more than one process."""
        return self._group is not None

    def broadcast_first(self, value: T) -> T:
        """Returns the first process's value if all do the same work, otherwise this process's own value."""
        if not self.one_model:
            return value
        values = [value]
        with _convert_exchange_errors():
            distributed.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Returns one value for each process, also if all do the same work, in the order of torch's ranks."""
        if not self.several:
            return [value]
        values: list[T | None] = [None] * distributed.get_world_size(self._group)
        with _convert_exchange_errors():
            distributed.all_gather_object(values, value, group=self._group)
        return cast(list[T], values)

    def total(self, values: Tensor) -> Tensor:
        """Returns the sums over all processes that share the work. `values` must be on the CPU."""
        return self._reduce(values, distributed.ReduceOp.SUM)

    def least(self, values: Tensor) -> Tensor:
        """Returns the minima over all processes that share the work. `values` must be on the CPU."""
        return self._reduce(values, distributed.ReduceOp.MIN)

    def _reduce(self, values: Tensor, operation: distributed.ReduceOp.RedOpType) -> Tensor:
        if self.count == 1:
            return values
        values = values.clone()
        with _convert_exchange_errors():
            distributed.all_reduce(values, operation, group=self._group)
        return values


@contextmanager
def _convert_exchange_errors() -> Iterator[None]:
    """Turns the RuntimeError of an exchange with a process that has ended into a ProcessLost."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost("another process has ended before its work was done: its output says why") from error


def join_processes() -> None:
    """Initialises torch.distributed if torchrun or accelerate launch started this process and it is not done yet."""
    is_launched = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
    if not is_launched or not distributed.is_available() or distributed.is_initialized():
        return
    store, rank, count = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store = _new_prefix_store(store, rank, count)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=TIMEOUT)


def _new_prefix_store(store: Store, rank: int, count: int) -> Store:
    """Returns a part of the store under a prefix that is new at every start.

    After a restart torchrun's store still holds the addresses of the earlier processes (pytorch/pytorch#135712), and no
    value that is the same in all processes differs between two starts: TORCHELASTIC_RESTART_COUNT rises only on the
    machine whose process has failed. So the first process draws a prefix and sends it to every process that asks for
    it, until all have it.
    """
    if rank == 0:
        prefix, answered, started = f"pymultiling-{uuid.uuid4()}", 0, time.monotonic()
        timeout: timedelta = store.timeout  # type: ignore[attr-defined]  # torch's stubs lack it
        while (known := store.add(f"{prefix}-known", 0)) < count - 1:
            if time.monotonic() - started > timeout.total_seconds():
                raise RuntimeError(f"only {known} of {count - 1} other processes have started within {timeout}")
            asked = store.add("pymultiling-asked", 0)
            for number in range(answered, asked):
                store.set(f"pymultiling-answer-{number + 1}", prefix)
            answered = asked
            time.sleep(0.01)
    else:
        prefix = store.get(f"pymultiling-answer-{store.add('pymultiling-asked', 1)}").decode()
        store.add(f"{prefix}-known", 1)
    return PrefixStore(prefix, store)


def is_first_process() -> bool:
    """Whether this is the process that prints and writes."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def processes(spread_over: int = 1) -> Iterator[Processes]:
    """Yields the processes of the run, with a process group that lasts until the end of the block.

    The group uses gloo, also on GPUs, since statistics are on the CPU.

    Args:
        spread_over: how many processes have a part of the model; 1: each process has the whole model.

    Raises:
        UnsupportedModel: the model is spread over some of the processes only.
    """
    join_processes()
    count = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    if spread_over not in (1, count):
        raise UnsupportedModel(
            f"the model is spread over {spread_over} of {count} processes: spread it over all of them, or over none"
        )
    if count == 1:
        yield Processes()
        return
    group, rank = distributed.new_group(backend="gloo", timeout=TIMEOUT), distributed.get_rank()
    one_model = spread_over > 1
    shared_rank, shared_count = (0, 1) if one_model else (rank, count)
    try:
        yield Processes(shared_rank, shared_count, rank == 0, one_model, group)
    finally:
        distributed.destroy_process_group(group)
