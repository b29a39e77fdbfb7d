"""mask_neurons: in each row of x the columns of that row's set, scaled and moved; rows of set -1 stay as they are."""

from torch import Tensor

from pymultiling.mathematics.masking import apply_masks


def mask_neurons(
    x: Tensor, masks: Tensor, mask_ids: Tensor, scale: float = 0.0, values: Tensor | None = None
) -> Tensor:
    return apply_masks(x, masks, mask_ids, scale, values)


def mask_neurons_(x: Tensor, masks: Tensor, mask_ids: Tensor, scale: float = 0.0, values: Tensor | None = None) -> None:
    x.copy_(apply_masks(x, masks, mask_ids, scale, values))
