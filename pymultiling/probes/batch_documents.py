"""The documents of a batch's tokens, grouped once in a forward and given to every operator of every layer."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pymultiling.errors import UnsupportedModel
from pymultiling.ops import Documents, group_tokens


def require_every_token(x: Tensor, count: int, site: str, layer: int) -> None:
    """Checks that a module was called with every token of a batch, and not with some of them.

    Args:
        x: (..., N), the module's input or output.
        count: number of tokens of the batch, padding included.
        site: the site of the module, for the message.
        layer: the number of its layer, for the message.

    Raises:
        UnsupportedModel: x has another number of tokens.
    """
    seen = x.numel() // x.shape[-1]
    if seen != count:
        raise UnsupportedModel(
            f"site {site} of layer {layer} was seen with {seen} of {count} tokens: the model runs this layer's modules "
            "in pieces, or with some of the tokens; use transformers' own forward, or leave this site out"
        )


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

    def of(self, x: Tensor, site: str, layer: int) -> Documents:
        """Returns the documents of x, (..., N), on its device; the arguments and errors are `require_every_token`'s."""
        require_every_token(x, len(self._first.ids), site, layer)
        return self.on(x.device)

    def on(self, device: torch.device) -> Documents:
        """Returns the documents on a device."""
        if device not in self._by_device:
            first = self._first
            order = None if first.order is None else first.order.to(device)
            self._by_device[device] = replace(
                first, ids=first.ids.to(device), offsets=first.offsets.to(device), order=order
            )
        return self._by_device[device]
