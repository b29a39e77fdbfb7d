"""Logits of some positions, so that those of a whole batch are never in memory at a time.

A batch of 4,096 tokens and a vocabulary of 262,144 tokens have 4 GiB of logits in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from pymultiling.errors import UnsupportedModel
from pymultiling.models.attached import replace
from pymultiling.models.blocks import Block
from pymultiling.models.decoder import Decoder, check_token_ids, model_device
from pymultiling.models.families import known_family
from pymultiling.models.pretrained import class_name, pretrained, uncompiled
from pymultiling.models.unwrap import body_of, require_weights, without_head
from pymultiling.runtime.device_copies import to_device

# Bytes of memory that the logits of a part of a batch take, with what is computed from them: logits in the model's
# dtype, then in float32, and their log-softmax. Fewer bytes make the products with the head's weight smaller.
PART_BYTES = 2**28
FLOAT32_BYTES = 8  # of a logit and of its log-softmax


class Head:
    """Computes logits by the model's own forward, in which the layers' output is replaced by chosen hidden states.

    So soft caps, scales and heads that several processes share are those of the model, whatever its family.

    Args:
        model: a Hugging Face decoder with a language-model head.
        decoder: the model's, which runs it without waiting for the device; None: its family is not known.
    """

    def __init__(self, model: nn.Module, decoder: Decoder | None):
        self._decoder = decoder
        self._model = uncompiled(model)  # compiled code may not notice the replacement
        body = body_of(self._model)
        inner = uncompiled(body)
        decoder_body = without_head(inner)
        self._is_compiled = inner is not body or getattr(inner, "_compiled_call_impl", None) is not None
        # Only a call of the whole model adds a prompt that PEFT has learned, and gathers what FSDP has spread.
        peft = getattr(self._model, "active_peft_config", None)
        is_whole = isinstance(self._model, FSDPModule) or getattr(peft, "is_prompt_learning", False)
        self._body = None if decoder_body is self._model or is_whole else decoder_body
        self._output: Any = None
        self._is_checked = False

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Runs the layers and the final norm.

        Args:
            input_ids: (documents, length) int64, on the CPU.
            attention_mask: (documents, length), 0 for padding, on the CPU.

        Returns:
            (documents, length, hidden), what `logits` takes.

        Raises:
            ValueError: a token has no embedding.
            UnsupportedModel: the model adds tokens to its input.
        """
        if self._body is None:
            logits: Tensor = self._run(self._model, input_ids, attention_mask).logits
            if logits.shape[:-1] != input_ids.shape:
                raise UnsupportedModel(
                    "the model adds tokens to its input, such as PEFT's virtual ones: load it without"
                )
            return logits
        self._output = self._run(self._body, input_ids, attention_mask)
        hidden: Tensor = self._output[0]
        if not self._is_checked:
            self._is_checked = True
            if self._replaced_forward(hidden[0, :1]) is None:  # the model does more than to run its layers
                self._body = self._output = None
                return self.hidden_states(input_ids, attention_mask)
        return hidden

    def _run(self, module: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Any:
        if self._decoder is not None:
            return self._decoder.run(module, input_ids, attention_mask)
        check_token_ids(self._model, input_ids)
        device = model_device(self._model)
        ids, mask = to_device(input_ids, device), to_device(attention_mask, device)
        return module(input_ids=ids, attention_mask=mask, use_cache=False)

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
        """Returns logits, (positions, vocabulary), of (positions, hidden); None if layers ran or tokens were added."""
        assert self._body is not None
        first = next(iter(self._output))
        if isinstance(self._output, tuple):
            output: object = (hidden[None], *self._output[1:])
        else:
            output = type(self._output)(**{**self._output, first: hidden[None]})
        tokens = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
        replacement = _Replacement(output, len(hidden))
        with _replaced_output(self._body, replacement, self._is_compiled):
            logits: Tensor = self._model.forward(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False
            ).logits
        return logits[0] if replacement.was_called else None


def require_language_model(model: nn.Module) -> None:
    """Checks that a model predicts the next token, and that its weights are in memory.

    Raises:
        UnsupportedModel: it has no language-model head, or is an encoder or an encoder-decoder; or as
            `require_weights`.
    """
    is_pair = pretrained(model).config.is_encoder_decoder
    if not is_pair:
        refuse_encoder(model, "perplexity and tasks need")
    can_generate = getattr(model, "can_generate", None)
    if can_generate is None or not can_generate() or is_pair:
        raise UnsupportedModel(
            f"{class_name(model)} does not predict the next token of a text, so that it has no perplexity: load the "
            "model with AutoModelForCausalLM"
        )
    require_weights(model)


def refuse_encoder(model: nn.Module, use: str) -> None:
    """Refuses a model whose tokens see those after them, which they therefore cannot predict.

    Args:
        model: the model.
        use: what needs a decoder, with its verb, for the message.

    Raises:
        UnsupportedModel: the model is of a family of encoders.
    """
    family = known_family(pretrained(model).config.get_text_config())
    if family is not None and not family.causal:
        kind = "an encoder-decoder, whose encoder is measured, and its" if family.is_pair else "an encoder, whose"
        raise UnsupportedModel(
            f"{class_name(model)} is {kind} tokens see those after them: {use} a decoder (AutoModelForCausalLM)"
        )


@dataclass
class _Replacement:
    """What a module returns instead of running.

    Attributes:
        output: what it returns.
        tokens: how many tokens it is to be called with.
        was_called: whether it was called with that many tokens.
    """

    output: object
    tokens: int
    was_called: bool = False


def _return_replacement(
    module: nn.Module,
    original: Callable[..., Any],
    items: Sequence[_Replacement],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> object:
    inputs = [args[0] if args else None, kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
    items[-1].was_called = any(x is not None and x.shape[1] == items[-1].tokens for x in inputs)
    return items[-1].output


@contextmanager
def _replaced_output(module: nn.Module, replacement: _Replacement, is_compiled: bool) -> Iterator[None]:
    """Inside, calls of the module from this thread return the replacement, also if the module is compiled."""
    with torch.compiler.set_stance("force_eager") if is_compiled else nullcontext(), Block() as block:
        replace(block, module, "forward", replacement, _return_replacement)
        yield
