"""The documents of a batch's tokens, grouped once in a forward and given to every operator of every layer."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pymultiling.ops import Documents, group_tokens


class BatchDocuments:
    """The documents of a batch's tokens, on every device that has a layer of the model.

    Args:
        ids: (tokens,) int64, the document of each token, -1 for tokens that no sum counts.
        count: number of documents.
        in_order: as in `group_tokens`.
    """

    def __init__(self, ids: Tensor, count: int, in_order: bool = False):
        documents = group_tokens(ids, count, in_order=in_order)
        self._by_device = {ids.device: documents}
        self._first = documents

    @classmethod
    def of_rows(cls, valid: Tensor, *, is_full: bool = False) -> BatchDocuments:
        """Makes each row of a batch a document.

        Args:
            valid: (documents, length) bool, False for padding, which belongs to no document.
            is_full: True if the caller knows that there is no padding.
        """
        count = valid.shape[0]
        ids = torch.where(valid, torch.arange(count, device=valid.device)[:, None], -1)
        return cls(ids.flatten(), count, in_order=is_full)

    def on(self, device: torch.device) -> Documents:
        """Returns the documents on a device."""
        if device not in self._by_device:
            first = self._first
            order = None if first.order is None else first.order.to(device)
            self._by_device[device] = replace(
                first, ids=first.ids.to(device), offsets=first.offsets.to(device), order=order
            )
        return self._by_device[device]
