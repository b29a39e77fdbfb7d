"""Computes the hidden product of an FFN and, in the same pass, the statistics of its neurons."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pymultiling.mathematics.documents import Documents
from pymultiling.ops.arguments import Activation, Backend, document_arguments
from pymultiling.ops.dispatch import call_tuple
from pymultiling.runtime.short_repr import short_repr


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

    def __repr__(self) -> str:
        return short_repr(self)


def gated_ffn(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    activation: Activation = "silu",
    documents: Tensor | Documents | None = None,
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
        documents: (tokens,) int64, the document index of each token, -1 for padding; or the result of `group_tokens`.
            None: all tokens are one document.
        count: number of documents. None: that of `group_tokens`, or the largest index + 1 (reads `documents` from the
            device).
        masks: (sets, I) bool, True where a neuron is switched off. None: no neuron is switched off.
        mask_ids: (tokens,) int64, the set (row of `masks`) of each token, -1 for none. Given exactly if `masks` is.
        backend: "auto", "triton", "cpp" or "torch".

    Returns:
        A `GatedFFN`: hidden in gate's dtype, squares and magnitude in float32 (float64 for float64 input), active in
        int64. The statistics are those of the product before it is rounded to gate's dtype. Not differentiable.

    Raises:
        ValueError: a shape, dtype or device does not fit, or the activation is unknown.
        IndexError: an index in `documents` is outside [-1, count), or an index in `mask_ids` is outside
            [-1, sets). GPU kernels do not check this: there a token with such an index in `documents` counts as
            padding, and a token with such an index in `mask_ids` keeps all its neurons.
        BackendUnavailable: the backend that was asked for cannot run here.

    Source: arXiv 2402.18815, eq. 1 (squares); arXiv 2402.16438, 2403.09073 and 2505.21505 (active).
    """
    ids, count, *grouped = document_arguments(gate, documents, count)
    results = call_tuple("gated_ffn", gate, up, activation, ids, count, masks, mask_ids, *grouped, backend=backend)
    return GatedFFN(*results)
