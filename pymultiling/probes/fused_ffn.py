"""Letting `gated_ffn` compute an FFN's activation and product, for the statistics that come with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from pymultiling.errors import UnsupportedModel
from pymultiling.models.decoder import Layer
from pymultiling.ops import GatedFFN, gated_ffn

# transformers' names of the activations that gated_ffn knows.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@contextmanager
def fused_ffn(
    activation: str, layer: Layer, documents: Callable[[], tuple[Tensor, int]], keep: Callable[[GatedFFN], None]
) -> Iterator[None]:
    """Inside, the layer's FFN runs through gated_ffn, and keep(result) is called at every forward.

    activation is transformers' name of the FFN's; documents() gives the ids of the tokens at hand and their number. The
    FFN module gets a forward of its own, which is taken away again; its projections run as modules, so their hooks work.
    """
    if activation not in ACTIVATIONS:
        raise UnsupportedModel(f"the FFN's activation is {activation!r}; looked for one of {', '.join(ACTIVATIONS)}")

    def forward(x: Tensor) -> Tensor:
        gate = layer.gate.module(x)
        if layer.up is None:
            up = None
        else:
            up = layer.up.of(gate if layer.up.module is layer.gate.module else layer.up.module(x)).flatten(0, 1)
        ids, count = documents()
        result = gated_ffn(
            layer.gate.of(gate).flatten(0, 1),
            up,
            activation=ACTIVATIONS[activation],
            documents=ids.to(x.device),
            count=count,
        )
        keep(result)
        return layer.down(result.hidden.view(*x.shape[:-1], -1))

    own = vars(layer.ffn).get("forward")
    layer.ffn.forward = forward
    try:
        yield
    finally:
        if own is None:
            del layer.ffn.forward
        else:
            layer.ffn.forward = own
