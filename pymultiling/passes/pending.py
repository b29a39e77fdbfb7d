"""Batches whose statistics a GPU may still be computing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic

from pymultiling.errors import NonFiniteActivations
from pymultiling.passes.checkpoints import S


@dataclass(frozen=True)
class Pending(Generic[S]):
    """Statistics of a batch that may not be computed yet. `a + b` joins two halves of a batch, in this order.

    Attributes:
        finish: waits until the batch is computed, and returns its statistics. It raises NonFiniteActivations if values
            are NaN or infinite. It is called once.
        documents: number of documents of the batch.
    """

    finish: Callable[[], S]
    documents: int

    @classmethod
    def checked(cls, statistics: S, documents: int, check: Callable[[], None]) -> Pending[S]:
        """Makes pending statistics of tensors on a device. `check` waits, and raises NonFiniteActivations."""

        def finish() -> S:
            check()
            return statistics

        return cls(finish, documents)

    def __add__(self, other: Pending[S]) -> Pending[S]:
        def finish_both() -> S:
            first = self.finish()
            try:
                second = other.finish()
            except NonFiniteActivations as error:
                raise NonFiniteActivations(str(error), self.documents + error.document) from None
            return first + second

        return Pending(finish_both, self.documents + other.documents)


@dataclass(frozen=True)
class Launched(Generic[S]):
    """A batch that was launched.

    Attributes:
        statistics: its statistics.
        number: its number in the chunk.
        documents: number of its documents.
        tokens: number of its tokens.
        tokens_done: number of the tokens of this batch and of those before it in the chunk.
        add_names: makes a context that adds names to errors, see `add_document_name`.
    """

    statistics: S | Pending[S]
    number: int
    documents: int
    tokens: int
    tokens_done: int
    add_names: Callable[[], AbstractContextManager[None]]

    def finish(self) -> S:
        """Returns the statistics.

        Raises:
            NonFiniteActivations: values of pending statistics are NaN or infinite.
        """
        if not isinstance(self.statistics, Pending):
            return self.statistics
        with self.add_names():
            return self.statistics.finish()


def one_behind(launches: Iterator[Launched[S]]) -> Iterator[Launched[S]]:
    """Yields batches in their order: one with pending statistics after the next one was launched, others at once.

    So a GPU has work while Python waits for the statistics of a batch. A batch is also yielded if the next launch
    fails.
    """
    waiting: Launched[S] | None = None
    while True:
        try:
            launched = next(launches, None)
        except BaseException:
            if waiting is not None:
                yield waiting
            raise
        if waiting is not None:
            yield waiting
        if launched is None:
            return
        waiting = launched
        if not isinstance(launched.statistics, Pending):
            yield launched
            waiting = None
