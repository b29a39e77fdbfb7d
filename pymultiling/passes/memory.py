"""Batches that do not fit in memory are measured in halves."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from pymultiling.data.batches import Batch
from pymultiling.errors import NonFiniteActivations, is_out_of_memory

Result = TypeVar("Result")


class SplitOnOutOfMemory(Generic[Result]):
    """Calls measure(batch, ...), or calls it for halves of the batch and joins the results if memory does not suffice.

    After a failure, batches with more tokens than the larger half are halved without an attempt. The joined result
    equals that of the whole batch to rounding.
    """

    def __init__(self, measure: Callable[..., Result], join: Callable[[Result, Result], Result] = operator.add):
        """Stores the functions that are called.

        Args:
            measure: gives the result of a batch.
            join: joins the results of the first and of the second half.
        """
        self._measure, self._join = measure, join
        self._max_tokens = float("inf")

    def __call__(self, batch: Batch, *arguments: object) -> Result:
        """Returns the result of the batch.

        Raises:
            MemoryError, RuntimeError: memory does not suffice for a single document.
            NonFiniteActivations: as `measure`, with the number of the document in the whole batch.
        """
        tokens = batch.input_ids.numel()
        if tokens <= self._max_tokens or len(batch.order) == 1:
            try:
                return self._measure(batch, *arguments)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or len(batch.order) == 1:
                    raise
            # The memory of the failed forward is free only now, since the exception referred to it.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._max_tokens = max(half.input_ids.numel() for half in batch.halves())
            warnings.warn(
                f"a batch of {len(batch.order)} documents of up to {batch.input_ids.shape[1]} tokens does not fit in "
                f"memory: it is measured in halves, and so is every batch of more than {self._max_tokens} tokens; "
                "use a smaller batch_tokens to avoid the failed attempt",
                stacklevel=2,
            )
        middle = len(batch.order) // 2
        first, second = batch.halves()
        first_result = self(first, *arguments)
        try:
            return self._join(first_result, self(second, *arguments))
        except NonFiniteActivations as error:
            raise NonFiniteActivations(str(error), middle + error.document) from None
