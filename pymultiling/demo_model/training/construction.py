"""Makes the tokenizer, the model and the batches of a run from its settings and its data."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pymultiling.demo_model import LANGUAGES
from pymultiling.demo_model.training.data import Batches, Corpora, sample_bytes
from pymultiling.demo_model.training.settings import TOKENIZER_WEIGHTS, Settings
from pymultiling.demo_model.training.tokenizer import train_tokenizer


def make_tokenizer(corpora: Corpora, settings: Settings) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on a balanced sample of the training text."""
    texts: list[str] = []
    for language in LANGUAGES:
        budget = int(settings.tokenizer_bytes * TOKENIZER_WEIGHTS.get(language, 1))
        texts += sample_bytes(corpora.texts(language, "train"), budget, settings.seed)
    return train_tokenizer(texts, settings.vocabulary)


def make_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Returns a randomly initialised model."""
    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.hidden,
        intermediate_size=settings.ffn,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        head_dim=settings.head_dim,
        max_position_embeddings=settings.positions,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def tokenise(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Returns the tokens of each line, without special tokens."""
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]


def make_batches(corpora: Corpora, tokenizer: PreTrainedTokenizerFast, settings: Settings) -> Batches:
    """Returns the training batches of a run, from the first step on."""
    return Batches(
        {language: tokenise(tokenizer, corpora.texts(language, "train")) for language in LANGUAGES},
        batch_tokens=settings.batch_tokens,
        length=settings.length,
        long_length=settings.long_length,
        long_every=settings.long_every,
        alpha=settings.alpha,
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        seed=settings.seed,
    )
