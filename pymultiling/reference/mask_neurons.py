"""mask_neurons: x with the columns of each row's set zeroed; rows of set -1 stay as they are."""

from torch import Tensor


def mask_neurons(x: Tensor, masks: Tensor, mask_ids: Tensor) -> Tensor:
    return x.masked_fill(_off(masks, mask_ids), 0)


def mask_neurons_(x: Tensor, masks: Tensor, mask_ids: Tensor) -> None:
    x.masked_fill_(_off(masks, mask_ids), 0)


def _off(masks: Tensor, mask_ids: Tensor) -> Tensor:
    """(tokens, N) bool: which cells are switched off."""
    return masks[mask_ids.clamp(min=0)] & (mask_ids >= 0)[:, None]
