"""Everything that decides the demo model, besides the data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Everything that decides the result of a run, besides the data."""

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


# More text for scripts of two or three bytes a character, so that their merges
# get a fair share of the vocabulary.
TOKENIZER_WEIGHTS = {"zh": 1.6, "hi": 1.5, "ru": 1.3}

HELDOUT_SEQUENCES = 32  # a language, on which the loss is measured during training
