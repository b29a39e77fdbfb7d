"""Counts the work of a model's plain forward: its matrix products, and the bytes that all other operations move.

The forward of transformers runs on tensors without memory, in bfloat16, without the head. Attention is replaced by an
operation without work, because a GPU runs another kernel than PyTorch on these tensors; its work is added by formula.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PretrainedConfig,
)

from benchmarks.operators.shapes import Shape

NO_ATTENTION = "no_attention"  # transformers' name of the attention without work
NO_KERNEL = ("prim::device", "aten::_unsafe_view")  # operations that launch no kernel
VOCABULARY = 1024  # its size does not matter without the head
NUMBER = 2  # bytes of a bfloat16 number


@dataclass
class Work:
    """The work of a forward.

    Attributes:
        products: (operations, bytes) of every matrix product: two operations for a multiplication and an addition.
        bytes: bytes that all other operations read and write, each its inputs and its outputs.
    """

    products: list[tuple[int, int]] = field(default_factory=list)
    bytes: int = 0


class _Counter(TorchDispatchMode):
    """Adds the work of all operations within the block to `work`."""

    def __init__(self, work: Work):
        super().__init__()
        self._work = work

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        schema = function._schema
        is_view = any(x.alias_info is not None and not x.alias_info.is_write for x in schema.returns)
        moved = sum(x.nbytes for x in tree_leaves((args, kwargs, output)) if isinstance(x, Tensor))
        if function._overloadpacket in flop_registry:
            operations = flop_registry[function._overloadpacket](*args, **kwargs, out_val=output)
            self._work.products.append((operations, moved))
        elif schema.name == "aten::embedding":  # reads the rows that it writes
            self._work.bytes += 2 * output.nbytes
        elif schema.name not in NO_KERNEL and not is_view:
            self._work.bytes += moved
        return output


def config_of(shape: Shape) -> PretrainedConfig:
    """Returns the configuration of a Llama or, with norms behind the sublayers, of a Gemma 3 of a shape."""
    return (Gemma3TextConfig if shape.normed else LlamaConfig)(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def work_of_forward(shape: Shape, documents: int) -> Work:
    """Counts the work of a forward over `documents` documents of the shape's length."""
    AttentionInterface.register(NO_ATTENTION, _no_attention)
    AttentionMaskInterface.register(NO_ATTENTION, lambda *_, **__: None)
    work = Work()
    with FakeTensorMode(), torch.no_grad():
        model = AutoModelForCausalLM.from_config(
            config_of(shape), dtype=torch.bfloat16, attn_implementation=NO_ATTENTION
        ).eval()
        tokens = torch.zeros(documents, shape.length, dtype=torch.int64)
        with _Counter(work):
            model.base_model(input_ids=tokens, use_cache=False)
    tokens_of_layers = documents * shape.length * shape.layers
    # Half of the pairs of tokens are computed, by two products, of scores and of values. Queries, keys, values and the
    # result are read or written.
    operations = 2 * shape.length * shape.mixed
    moved = NUMBER * 2 * (shape.heads + shape.kv_heads) * shape.head_size
    work.products.append((tokens_of_layers * operations, tokens_of_layers * moved))
    return work


def _no_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: object
) -> tuple[Tensor, None]:
    """Returns (documents, length, heads, size), the shape that transformers expects, without work."""
    return query.transpose(1, 2), None
