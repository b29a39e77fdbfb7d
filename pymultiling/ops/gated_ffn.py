"""An FFN's hidden product and the statistics of its neurons, in one pass."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pymultiling.ops.arguments import document_ids, require, require_masks, require_matrix
from pymultiling.ops.dispatch import call
from pymultiling.ops.reference.gated_ffn import ACTIVATIONS


class GatedFFN(NamedTuple):
    """What `gated_ffn` gives: `hidden` (tokens, I), and per document and neuron (count, I) the sums over its tokens."""

    hidden: Tensor
    squares: Tensor
    active: Tensor
    magnitude: Tensor


def gated_ffn(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    activation: str = "silu",
    documents: Tensor | None = None,
    count: int | None = None,
    masks: Tensor | None = None,
    mask_ids: Tensor | None = None,
    backend: str = "auto",
) -> GatedFFN:
    """An FFN's hidden product and, from the same pass, what each neuron did in each document.

        hidden = act(gate) * up        (gated), or act(gate) (plain: no up); masked neurons are 0 everywhere below
        squares[c, n]   = sum_{t in c} hidden[t, n]^2        times ||W_down[:, n]||^2: importance (arXiv 2402.18815, eq. 1)
        active[c, n]    = #{t in c : act(gate[t, n]) > 0}    (arXiv 2402.16438, 2403.09073, 2505.21505)
        magnitude[c, n] = sum_{t in c} |up[t, n]|            (|gate| where there is no up)

    Args:
        gate: (tokens, I), the gate projection (the only one, in a plain FFN); any floating dtype; rows may be strided.
        up: (tokens, I), as gate; None for a plain FFN.
        activation: "silu", "gelu", "gelu_tanh" or "relu".
        documents: (tokens,) int64, the document of each token, -1 for padding; None: all one document.
        count: number of documents; None: the largest id + 1 (reads the device).
        masks: (sets, I) bool, True where a neuron is off; None: none is.
        mask_ids: (tokens,) int64, the set of each token, -1 for none; needed with masks.
        backend: "auto", "triton", "cpp" or "torch".

    Returns:
        hidden in gate's dtype; squares and magnitude float32 (float64 for float64 input), active int64. The statistics
        are those of the unrounded product. Not differentiable.

    Raises:
        ValueError: shapes or dtypes do not fit, or the activation is not one of these.
        IndexError, RuntimeError: an id is outside [-1, count) or [-1, sets). On a GPU a token with such an id of a document
            counts as padding, and such a set masks nothing.
        BackendUnavailable: a forced backend cannot run here.
    """
    require_matrix("gate", gate)
    require(activation in ACTIVATIONS, f"activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    require(up is None or (up.shape == gate.shape and up.dtype == gate.dtype), "up must have gate's shape and dtype")
    require((masks is None) == (mask_ids is None), "masks and mask_ids go together")
    if masks is not None:
        require_masks(gate, masks, mask_ids)
    documents, count = document_ids(gate, documents, count)
    return GatedFFN(*call("gated_ffn", gate, up, activation, documents, count, masks, mask_ids, backend=backend))
