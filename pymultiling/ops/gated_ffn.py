"""Computes the hidden product of an FFN and, in the same pass, the statistics of its neurons."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pymultiling.ops.arguments import (
    Activation,
    Backend,
    document_ids,
    require,
    require_mask_sets,
    require_matrix,
)
from pymultiling.ops.dispatch import call_tuple
from pymultiling.ops.reference.gated_ffn import ACTIVATIONS


class GatedFFN(NamedTuple):
    """The result of `gated_ffn`.

    Attributes:
        hidden: (tokens, I), the hidden product, the input of the down projection.
        squares: (count, I), sums of hidden^2 over the tokens of each document.
        active: (count, I) int64, how many tokens of each document activate the neuron.
        magnitude: (count, I), sums of |up| (in a plain FFN of |gate|) over the tokens of each document.
    """

    hidden: Tensor
    squares: Tensor
    active: Tensor
    magnitude: Tensor


def gated_ffn(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    activation: Activation = "silu",
    documents: Tensor | None = None,
    count: int | None = None,
    masks: Tensor | None = None,
    mask_ids: Tensor | None = None,
    backend: Backend = "auto",
) -> GatedFFN:
    """Computes the hidden product of an FFN and, in the same pass, the statistics of its neurons in each document.

        hidden = act(gate) * up        in a gated FFN; hidden = act(gate) in a plain FFN, which has no up projection
        squares[c, n]   = sum over the tokens t of document c of hidden[t, n]^2
        active[c, n]    = number of tokens t of document c with act(gate[t, n]) > 0
        magnitude[c, n] = sum over the tokens t of document c of |up[t, n]|, or of |gate[t, n]| in a plain FFN

    Neurons that are masked for a token are 0 in all four results. squares[c, n] times the squared norm of column n of
    the down projection is the importance of neuron n.

    Args:
        gate: (tokens, I), output of the gate projection, or of the only input projection of a plain FFN. Any floating
            dtype and any strides.
        up: (tokens, I), output of the up projection, in gate's dtype. None for a plain FFN.
        activation: "silu", "gelu", "gelu_tanh" or "relu".
        documents: (tokens,) int64, the document index of each token, -1 for padding. None: all tokens are one document.
        count: number of documents. None: the largest index + 1 (reads `documents` from the device).
        masks: (sets, I) bool, True where a neuron is switched off. None: no neuron is switched off.
        mask_ids: (tokens,) int64, the set (row of `masks`) of each token, -1 for none. Given exactly if `masks` is.
        backend: "auto", "triton", "cpp" or "torch".

    Returns:
        A `GatedFFN`: hidden in gate's dtype, squares and magnitude in float32 (float64 for float64 input), active in
        int64. The statistics are those of the product before it is rounded to gate's dtype. Not differentiable.

    Raises:
        ValueError: a shape or dtype does not fit, or the activation is unknown.
        IndexError, RuntimeError: an index in `documents` is outside [-1, count), or an index in `mask_ids` is outside
            [-1, sets). GPU kernels do not check this: there a token with such an index in `documents` counts as
            padding, and a token with such an index in `mask_ids` keeps all its neurons.
        BackendUnavailable: the backend that was asked for cannot run here.

    Source: arXiv 2402.18815, eq. 1 (squares); arXiv 2402.16438, 2403.09073 and 2505.21505 (active).
    """
    require_matrix("gate", gate)
    require(activation in ACTIVATIONS, lambda: f"activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    if up is not None:
        require(
            up.shape == gate.shape and up.dtype == gate.dtype,
            lambda: f"up must be {tuple(gate.shape)} in {gate.dtype} like gate, got {tuple(up.shape)} in {up.dtype}",
        )
    require((masks is None) == (mask_ids is None), "masks and mask_ids must be given together")
    if masks is not None and mask_ids is not None:
        require_mask_sets(gate, masks, mask_ids)
    documents, count = document_ids(gate, documents, count)
    results = call_tuple("gated_ffn", gate, up, activation, documents, count, masks, mask_ids, backend=backend)
    return GatedFFN(*results)
