"""Settings of the demo model and its training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Everything that determines the result of a run, except the data."""

    steps: int = 4800
    seed: int = 0
    vocabulary: int = 8000
    hidden: int = 224
    layers: int = 6
    ffn: int = 640
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 32
    positions: int = 512
    batch_tokens: int = 4096
    length: int = 128
    long_length: int = 512
    long_every: int = 8
    alpha: float = 0.6
    peak_lr: float = 3e-3
    final_lr: float = 3e-5
    warmup: int = 200
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    tokenizer_bytes: int = 500_000


# Scripts with two or three bytes per character get more text, so that enough of the vocabulary is theirs.
TOKENIZER_WEIGHTS = {"zh": 1.6, "hi": 1.5, "ru": 1.3}

HELDOUT_SEQUENCES = 32  # per language, on which the loss is measured during training
