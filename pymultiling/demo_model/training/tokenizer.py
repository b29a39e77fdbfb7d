"""The byte-level BPE tokenizer of the demo model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<s>", "</s>"

# Words keep their combining marks: Devanagari vowel signs are \p{M}, and a pattern of \p{L} alone would cut Hindi words
# at each of them. Every digit is a separate token, so that numbers are spelled the same way in all languages.
WORDS = r" ?[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)?|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+"


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Trains a tokenizer on `texts`; it puts `<s>` before a text and nothing after it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {EOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS)), (EOS, tokenizer.token_to_id(EOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=512,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Saves a tokenizer as compact JSON, with a class name that every transformers version knows."""
    tokenizer.save_pretrained(folder)
    tokenizer_file, config_file = folder / "tokenizer.json", folder / "tokenizer_config.json"
    content = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    tokenizer_file.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    options = json.loads(config_file.read_text(encoding="utf-8"))
    for name in ("backend", "is_local", "local_files_only"):
        options.pop(name, None)
    options["tokenizer_class"] = "PreTrainedTokenizerFast"
    config_file.write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")
