"""A small multilingual language model that ships with the package.

A 5.4-million-parameter Llama decoder for eight languages, with its tokenizer
and texts, so that examples, tests and demonstrations run offline on a real
trained model. See the README beside this file for data and measurements.
The attribute `pymultiling.embedded` is this module too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymultiling.data.text_lines import text_lines

if TYPE_CHECKING:
    import torch

__all__ = ["LANGUAGES", "corpora", "heldout", "load"]

LANGUAGES: tuple[str, ...] = ("en", "de", "fr", "es", "ru", "zh", "tr", "hi")

_FOLDER = Path(__file__).parent


def load(dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """The model, in evaluation mode, and its tokenizer; `dtype` is float32 if not given.

    The tokenizer puts `<s>` in front of a text, as in training, so the first
    real token is predicted too. `</s>` ends a line and separates lines.
    """
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    folder = _FOLDER / "model"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype or torch.float32, local_files_only=True)
    return model.eval(), tokenizer


def corpora() -> dict[str, list[str]]:
    """Detection texts: about 150 KB of training lines for each language."""
    return {language: _lines(f"{language}.txt.gz") for language in LANGUAGES}


def heldout() -> dict[str, list[str]]:
    """Held-out lines, never trained on, for each language."""
    return {language: _lines(f"{language}.heldout.txt.gz") for language in LANGUAGES}


def _lines(name: str) -> list[str]:
    with open(_FOLDER / "text" / name, "rb") as raw:
        return list(text_lines(raw, name, name, strict=True))
