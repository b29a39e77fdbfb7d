"""Lets `gated_ffn` compute an FFN's activation and product, to get the statistics that it computes in the same pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from pymultiling.errors import UnsupportedModel
from pymultiling.models.attached import replace
from pymultiling.models.blocks import Block
from pymultiling.models.decoder import DenseFFN, Layer
from pymultiling.ops import Documents, GatedFFN, gated_ffn

# transformers' names of the activations, and those of gated_ffn.
ACTIVATIONS: dict[str, Literal["silu", "gelu", "gelu_tanh", "relu"]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def fuse_ffn(
    block: Block,
    activation: str,
    layer: Layer,
    parts: DenseFFN,
    documents: Callable[[Tensor], Documents],
    keep: Callable[[GatedFFN], None],
) -> None:
    """Until the block ends, gated_ffn computes the layer's FFN where it is on, and every forward calls keep(result).

    The FFN module gets another forward, which is removed at the end. Its projections still run as modules, so their
    hooks are called.

    Args:
        block: the block.
        activation: transformers' name of the FFN's activation.
        layer: the layer.
        parts: the projections of the layer's FFN.
        documents: returns the documents of the FFN's input.
        keep: gets the result of every forward.

    Raises:
        UnsupportedModel: gated_ffn does not know the activation.
    """
    if activation not in ACTIVATIONS:
        raise UnsupportedModel(f"the FFN's activation is {activation!r}; looked for one of {', '.join(ACTIVATIONS)}")

    def forward(x: Tensor) -> Tensor:
        gate_output = parts.gate.module(x)
        up = None
        if parts.up is not None:
            # A fused projection of gate and up runs only once.
            is_fused = parts.up.module is parts.gate.module
            up = parts.up.select(gate_output if is_fused else parts.up.module(x)).flatten(0, 1)
        result = gated_ffn(
            parts.gate.select(gate_output).flatten(0, 1),
            up,
            activation=ACTIVATIONS[activation],
            documents=documents(x),
        )
        keep(result)
        output: Tensor = parts.down(result.hidden.view(*x.shape[:-1], -1))
        return output

    replace(block, layer.ffn, "forward", forward, _run_innermost)


def _run_innermost(
    module: nn.Module,
    original: Callable[..., Any],
    forwards: Sequence[Callable[..., Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    return forwards[-1](*args, **kwargs)
