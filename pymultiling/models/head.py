"""Logits of some positions, so that those of a whole batch are never in memory at a time.

A batch of 4,096 tokens and a vocabulary of 262,144 tokens have 4 GiB of logits in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from pymultiling.errors import UnsupportedModel
from pymultiling.models.pretrained import pretrained

# Bytes of memory that the logits of a part of a batch take, with what is computed from them: logits in the model's
# dtype, then in float32, and their log-softmax. Fewer bytes make the products with the head's weight smaller.
PART_BYTES = 2**28
FLOAT32_BYTES = 8  # of a logit and of its log-softmax


class Head:
    """Computes logits by the model's own forward, in which the layers' output is replaced by chosen hidden states.

    So soft caps, scales and heads that several processes share are those of the model, whatever its family.

    Args:
        model: a Hugging Face decoder with a language-model head.
    """

    def __init__(self, model: nn.Module):
        self._model: nn.Module = getattr(model, "_orig_mod", model)  # compiled code may not notice the replacement
        body: nn.Module | None = pretrained(self._model).get_decoder()  # type: ignore[no-untyped-call]
        # Only a call of the whole model adds a prompt that PEFT has learned, and gathers what FSDP has spread.
        peft = getattr(self._model, "active_peft_config", None)
        is_whole = isinstance(self._model, FSDPModule) or getattr(peft, "is_prompt_learning", False)
        self._body = None if body is self._model or is_whole else body
        self._output: Any = None
        self._is_checked = False

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Runs the layers and the final norm.

        Args:
            input_ids: (documents, length) int64, on the model's device.
            attention_mask: (documents, length), 0 for padding.

        Returns:
            (documents, length, hidden), what `logits` takes.

        Raises:
            UnsupportedModel: the model adds tokens to its input.
        """
        options = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        if self._body is None:
            logits: Tensor = self._model(**options).logits
            if logits.shape[:-1] != input_ids.shape:
                raise UnsupportedModel(
                    "the model adds tokens to its input, such as PEFT's virtual ones: load it without"
                )
            return logits
        self._output = self._body(**options)
        hidden: Tensor = self._output[0]
        if not self._is_checked:
            self._is_checked = True
            if self._replaced_forward(hidden[0, :1]) is None:  # the model runs its layers in another way
                self._body = self._output = None
                return self.hidden_states(input_ids, attention_mask)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns the logits of hidden states of the last batch, (positions, hidden), as (positions, vocabulary)."""
        if self._body is None:  # they are logits already
            return hidden
        logits = self._replaced_forward(hidden)
        assert logits is not None, "checked in the first batch"
        return logits

    def parts(self, positions: int, hidden: Tensor) -> Iterator[slice]:
        """Yields slices of positions. The logits of a slice take at most PART_BYTES, or it has a single position.

        Args:
            positions: how many positions there are.
            hidden: hidden states, whose dtype is that of the logits.
        """
        vocabulary: int = pretrained(self._model).config.get_text_config().vocab_size
        size = max(1, PART_BYTES // (vocabulary * (hidden.dtype.itemsize + FLOAT32_BYTES)))
        for start in range(0, positions, size):
            yield slice(start, start + size)

    def _replaced_forward(self, hidden: Tensor) -> Tensor | None:
        """Returns the logits, (positions, vocabulary), of (positions, hidden); None if the model ran its layers."""
        assert self._body is not None
        first = next(iter(self._output))
        if isinstance(self._output, tuple):
            output: object = (hidden[None], *self._output[1:])
        else:
            output = type(self._output)(**{**self._output, first: hidden[None]})
        tokens = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        with _returning(self._body, output) as calls:
            logits: Tensor = self._model.forward(input_ids=tokens, use_cache=False).logits
        return logits[0] if calls else None


@contextmanager
def _returning(module: nn.Module, output: object) -> Iterator[list[None]]:
    """Inside, the module returns `output`, also if it is compiled. The list has an element for each call."""
    calls: list[None] = []

    def forward(*_: object, **__: object) -> object:
        calls.append(None)
        return output

    names = ("forward", "_compiled_call_impl")
    before = {name: vars(module)[name] for name in names if name in vars(module)}
    vars(module).update(forward=forward, _compiled_call_impl=None)
    try:
        yield calls
    finally:
        for name in names:
            vars(module).pop(name)
        vars(module).update(before)
