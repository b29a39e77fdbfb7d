"""gated_ffn: the hidden product of an FFN and, in the same pass, the statistics of its neurons in each document.

    hidden = act(gate) * up        in a gated FFN; hidden = act(gate) in a plain FFN, which has no up projection
    squares[c, n]   = sum over the tokens t of document c of hidden[t, n]^2
    active[c, n]    = number of tokens t of document c with act(gate[t, n]) > 0
    magnitude[c, n] = sum over the tokens t of document c of |up[t, n]|, or of |gate[t, n]| in a plain FFN

Masked neurons are 0 in all four results. Every activation here is 0 at 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pymultiling.mathematics.masking import apply_masks
from pymultiling.mathematics.sums import document_sum, upcast

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


def gated_ffn(
    gate: Tensor,
    up: Tensor | None,
    activation: str,
    documents: Tensor,
    count: int,
    masks: Tensor | None,
    mask_ids: Tensor | None,
    offsets: Tensor | None = None,
    order: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes the hidden product of an FFN and the statistics of its neurons in each document.

    Args:
        gate: (tokens, I), output of the gate projection, or of the only input projection of a plain FFN.
        up: (tokens, I), output of the up projection. None for a plain FFN.
        activation: key of ACTIVATIONS.
        documents: (tokens,) int64, the document index of each token, -1 for padding.
        count: number of documents.
        masks: (sets, I) bool, True where a neuron is switched off. None: no neuron is switched off.
        mask_ids: (tokens,) int64, the set (row of `masks`) of each token, -1 for none. None if `masks` is None.
        offsets: not read: by it and `order` the kernels find the tokens of each document.
        order: not read.

    Returns:
        hidden (tokens, I) in gate's dtype, squares (count, I), active (count, I) int64, and magnitude (count, I).
        squares and magnitude are float32, or float64 for float64 input.
    """
    activated = ACTIVATIONS[activation](upcast(gate))
    linear = upcast(gate if up is None else up)
    hidden = activated if up is None else activated * linear
    if masks is not None and mask_ids is not None:
        hidden, activated, linear = (apply_masks(x, masks, mask_ids) for x in (hidden, activated, linear))
    return (
        hidden.to(gate.dtype).contiguous(),
        document_sum(hidden.square(), documents, count),
        document_sum((activated > 0).to(torch.int64), documents, count),
        document_sum(linear.abs(), documents, count),
    )
