"""gated_ffn: an FFN's hidden product and, from the same pass, what each neuron did in each document.

hidden = act(gate) * up         (gated), or act(gate) (plain: no up); masked neurons are 0
squares[c, n]   = sum_{t in c} (hidden[t, n] - act(0))^2, act(0) = 0 for every activation here
active[c, n]    = #{t in c : act(gate[t, n]) > 0}
magnitude[c, n] = sum_{t in c} |up[t, n]|                 (|gate| where there is no up)
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pymultiling.mathematics.sums import document_sum, upcast
from pymultiling.ops.reference.mask_neurons import mask_neurons

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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    activated = ACTIVATIONS[activation](upcast(gate))
    linear = upcast(gate if up is None else up)
    hidden = activated if up is None else activated * linear
    if masks is not None:
        hidden, activated, linear = (mask_neurons(x, masks, mask_ids) for x in (hidden, activated, linear))
    return (
        hidden.to(gate.dtype).contiguous(),
        document_sum(hidden.square(), documents, count),
        document_sum((activated > 0).to(torch.int64), documents, count),
        document_sum(linear.abs(), documents, count),
    )
