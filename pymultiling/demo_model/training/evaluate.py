"""Held-out measurements of the demo model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

IGNORED = -100


@dataclass(frozen=True)
class Score:
    """Summed loss over a text, with what it is to be divided by."""

    nats: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """Token-weighted perplexity."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte, comparable across tokenizers."""
        return self.nats / math.log(2) / self.bytes


def windows(tokens: list[int], bos: int, length: int) -> list[list[int]]:
    """Cut `tokens` (without `<s>`) into pieces of at most `length`, each opened by `<s>`."""
    return [[bos, *tokens[at : at + length - 1]] for at in range(0, len(tokens), length - 1)]


def score_lines(model: Any, tokenizer: Any, lines: list[str]) -> Score:
    """Every line a text of its own, `<s> line`, as the tokenizer gives it."""
    bos, length = tokenizer.bos_token_id, model.config.max_position_embeddings
    rows = [row for tokens in _plain(tokenizer, lines) for row in windows(tokens, bos, length)]
    return _score(model, rows, sum(len(line.encode("utf-8")) for line in lines))


def score_packed(model: Any, tokenizer: Any, lines: list[str], length: int) -> Score:
    """Lines joined by `</s>` and cut to `length` tokens; `</s>` is predicted and counted as a byte."""
    stream = [token for tokens in _plain(tokenizer, lines) for token in (*tokens, tokenizer.eos_token_id)]
    rows = windows(stream, tokenizer.bos_token_id, length)
    return _score(model, rows, sum(len(line.encode("utf-8")) + 1 for line in lines))


def _plain(tokenizer: Any, lines: list[str]) -> list[list[int]]:
    return tokenizer(lines, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


@torch.no_grad()
def _score(model: Any, rows: list[list[int]], size: int, batch_tokens: int = 4096) -> Score:
    """Sum over `rows`; rows of like length share a batch, padded at the end."""
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
        # Padding is at the end, where a causal model does not look back from.
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
        losses = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="none")
        nats += losses.double().sum().item()
        count += int((labels != IGNORED).sum())
    return Score(nats, count, size)
