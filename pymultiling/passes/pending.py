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
    """Statistics of a batch, and a check that waits for them. `a + b` joins two halves of a batch, in this order.

    Attributes:
        statistics: the statistics of the batch.
        documents: number of documents of the batch.
        check: waits until the batch is computed. It raises NonFiniteActivations if values are NaN or infinite.
    """

    statistics: S
    documents: int
    check: Callable[[], None]

    def __add__(self, other: Pending[S]) -> Pending[S]:
        def check_both() -> None:
            self.check()
            try:
                other.check()
            except NonFiniteActivations as error:
                raise NonFiniteActivations(str(error), self.documents + error.document) from None

        return Pending(self.statistics + other.statistics, self.documents + other.documents, check_both)


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
            NonFiniteActivations: the check of pending statistics failed.
        """
        if not isinstance(self.statistics, Pending):
            return self.statistics
        with self.add_names():
            self.statistics.check()
        return self.statistics.statistics


def one_behind(launches: Iterator[Launched[S]]) -> Iterator[Launched[S]]:
    """Yields batches in their order: one with pending statistics after the next one was launched, others at once.

    So a GPU has work while the statistics of a batch are checked. A batch is also yielded if the next launch fails.
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
