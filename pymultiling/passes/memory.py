"""Batches that do not fit in memory: measured in halves."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from pymultiling.data.batches import Batch
from pymultiling.errors import NonFiniteActivations, is_out_of_memory

Found = TypeVar("Found")


class SplitOnOutOfMemory:
    """measure(batch, ...), or what it gives for halves, joined, where memory does not suffice for the whole.

    After that, batches of more tokens than the larger half had are halved without a trial. What is joined is that of the whole to
    rounding. `join` adds, unless another is given.
    """

    def __init__(self, measure: Callable[..., Found], join: Callable[[Found, Found], Found] = operator.add):
        self._measure, self._join = measure, join
        self._most = float("inf")

    def __call__(self, batch: Batch, *others: object) -> Found:
        tokens = batch.input_ids.numel()
        if tokens <= self._most or len(batch.order) == 1:
            try:
                return self._measure(batch, *others)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or len(batch.order) == 1:
                    raise
            # What the failed forward held is free now that its exception is gone.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._most = max(half.input_ids.numel() for half in batch.halves())
            warnings.warn(
                f"a batch of {len(batch.order)} documents of up to {batch.input_ids.shape[1]} tokens does not fit in memory: "
                f"it is measured in halves, and so is every batch of more than {self._most} tokens; a smaller batch_tokens "
                "saves the trial"
            )
        middle = len(batch.order) // 2
        one, other = batch.halves()
        found = self(one, *others)
        try:
            return self._join(found, self(other, *others))
        except NonFiniteActivations as error:
            raise NonFiniteActivations(str(error), middle + error.document) from None
