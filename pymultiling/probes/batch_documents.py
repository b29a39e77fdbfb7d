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
    def of_rows(cls, input_ids: Tensor, attention_mask: Tensor | None) -> BatchDocuments:
        """Makes each row of a batch a document.

        Args:
            input_ids: (documents, length) int64.
            attention_mask: (documents, length), 0 for padding, which belongs to no document. None: there is none.
        """
        count, length = input_ids.shape
        ids = torch.arange(count, device=input_ids.device)[:, None].expand(count, length)
        if attention_mask is not None:
            ids = torch.where(attention_mask.bool(), ids, -1)
        return cls(ids.flatten(), count, in_order=attention_mask is None)

    def on(self, device: torch.device) -> Documents:
        """Returns the documents on a device."""
        if device not in self._by_device:
            first = self._first
            order = None if first.order is None else first.order.to(device)
            self._by_device[device] = replace(
                first, ids=first.ids.to(device), offsets=first.offsets.to(device), order=order
            )
        return self._by_device[device]
