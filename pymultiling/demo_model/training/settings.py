"""Settings of the demo model and its training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Everything that determines the result of a run, except the data.

    Attributes:
        steps: number of training steps.
        seed: of the weights, of the sampled texts and of the order of the batches.
        vocabulary: number of tokens of the tokenizer.
        hidden: hidden size.
        layers: number of layers.
        ffn: number of neurons of an FFN.
        heads: number of query heads.
        kv_heads: number of key-value heads.
        head_dim: size of a head.
        positions: the largest number of tokens of a sequence.
        batch_tokens: number of tokens of a batch.
        length: number of tokens of a sequence in most batches.
        long_length: number of tokens of a sequence in every `long_every`-th batch.
        long_every: see `long_length`.
        alpha: the exponent of the language probabilities, as in `Batches`.
        peak_lr: the highest learning rate.
        final_lr: the learning rate of the last step.
        warmup: number of steps in which the learning rate rises.
        weight_decay: weight decay of AdamW, for matrices.
        betas: betas of AdamW.
        clip: the largest norm of the gradients.
        tokenizer_bytes: bytes of text of each language for the tokenizer, before TOKENIZER_WEIGHTS.
    """

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


# Languages whose scripts have two or three bytes per character get more text by these factors, so that the vocabulary
# has enough of their words.
TOKENIZER_WEIGHTS = {"zh": 1.6, "hi": 1.5, "ru": 1.3}

HELDOUT_SEQUENCES = 32  # per language, on which the loss is measured during training
