"""The demo model: a small multilingual language model that ships with the package.

It is a Llama decoder with 5.4 million parameters for eight languages. Its tokenizer and texts are included, so that
examples, tests and demonstrations run offline on a trained model. The README in this folder describes its data and its
measurements. `pymultiling.embedded` is another name of this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.data.text_lines import text_lines

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = [
    # the model
    "load",
    # its languages and texts
    "LANGUAGES",
    "corpora",
    "heldout",
]

LANGUAGES: tuple[str, ...] = ("en", "de", "fr", "es", "ru", "zh", "tr", "hi")

_FOLDER = Path(__file__).parent


def load(dtype: torch.dtype | None = None) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Loads the model and its tokenizer.

    The tokenizer puts `<s>` before a text, as in training, so that the first real token is predicted too. In training
    every line was followed by one `</s>`, which the tokenizer does not add.

    Args:
        dtype: the dtype of the weights; None: float32.

    Returns:
        The model, in evaluation mode on the CPU, and the tokenizer.
    """
    import torch
    from torch import nn
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    folder = _FOLDER / "model"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype or torch.float32, local_files_only=True)
    module: nn.Module = model  # for mypy: nn.Module.eval is annotated, LlamaForCausalLM.eval is not
    module.eval()
    return model, tokenizer


def corpora() -> dict[str, list[str]]:
    """Returns texts for detection, {language: lines}: about 150 KB of the training lines of each language."""
    return {language: _read_lines(f"{language}.txt.gz") for language in LANGUAGES}


def heldout() -> dict[str, list[str]]:
    """Returns held-out texts, {language: lines}, which were not used for training."""
    return {language: _read_lines(f"{language}.heldout.txt.gz") for language in LANGUAGES}


def _read_lines(name: str) -> list[str]:
    with (_FOLDER / "text" / name).open("rb") as raw:
        return list(text_lines(raw, name, name, strict=True))
