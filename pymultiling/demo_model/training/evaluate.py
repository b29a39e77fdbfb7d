"""Measures the demo model on held-out texts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

IGNORED = -100


@dataclass(frozen=True)
class SummedLoss:
    """The summed loss of a text, and the numbers of tokens and bytes that it is divided by."""

    nats: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """The perplexity, weighted by tokens."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte, which are comparable across tokenizers."""
        return self.nats / math.log(2) / self.bytes


def windows(tokens: list[int], bos: int, length: int) -> list[list[int]]:
    """Cuts `tokens`, which have no `<s>`, into pieces of at most `length` tokens that begin with `<s>`."""
    return [[bos, *tokens[start : start + length - 1]] for start in range(0, len(tokens), length - 1)]


def measure_lines(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> SummedLoss:
    """Measures every line as a separate text, `<s> line`."""
    bos, length = tokenizer.bos_token_id, model.config.max_position_embeddings
    rows = [row for tokens in _tokenise(tokenizer, lines) for row in windows(tokens, bos, length)]
    return _sum_losses(model, rows, sum(len(line.encode("utf-8")) for line in lines))


def measure_packed(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, lines: list[str], length: int
) -> SummedLoss:
    """Measures lines that are joined by `</s>` and cut to `length` tokens; `</s>` is predicted and counts as a byte."""
    stream = [token for tokens in _tokenise(tokenizer, lines) for token in (*tokens, tokenizer.eos_token_id)]
    rows = windows(stream, tokenizer.bos_token_id, length)
    return _sum_losses(model, rows, sum(len(line.encode("utf-8")) + 1 for line in lines))


def _tokenise(tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> list[list[int]]:
    return tokenizer(lines, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


@torch.no_grad()
def _sum_losses(model: LlamaForCausalLM, rows: list[list[int]], size: int, batch_tokens: int = 4096) -> SummedLoss:
    """Sums the losses of all rows; rows of similar length share a batch, padded at the end."""
    nats, count = 0.0, 0
    rows = sorted(rows, key=len)
    while rows:
        fit = max(1, batch_tokens // len(rows[-1]))
        batch, rows = rows[-fit:], rows[:-fit]
        tokens = torch.zeros(len(batch), len(batch[-1]), dtype=torch.long)
        labels = torch.full_like(tokens, IGNORED)
        for index, row in enumerate(batch):
            tokens[index, : len(row)] = torch.tensor(row)
            labels[index, 1 : len(row)] = tokens[index, 1 : len(row)]
        # The padding is at the end, so that a causal model does not see it from the tokens before.
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
        losses = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="none")
        nats += losses.double().sum().item()
        count += int((labels != IGNORED).sum())
    return SummedLoss(nats, count, size)
