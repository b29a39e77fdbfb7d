"""Texts in two languages, a tokenizer and a saved model, for tests that start from files. One word is one token."""

import gzip
import json
import random
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.support.tiny_models import VOCABULARY_SIZE, tiny_model

WORDS = [f"w{number}" for number in range(3, VOCABULARY_SIZE)]
LANGUAGES = {"fr": WORDS[: len(WORDS) // 2], "de": WORDS[len(WORDS) // 2 :]}


def tiny_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """Returns a tokenizer with a token for each word, <s> in front of a text, and no padding token."""
    vocabulary = {word: token for token, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def texts(language: str, lengths=(9, 4, 7, 12, 3, 8), seed: int = 0) -> list[str]:
    """Returns random texts of a language with these numbers of words."""
    generator = random.Random(f"{language} {seed}")
    return [" ".join(generator.choices(LANGUAGES[language], k=length)) for length in lengths]


def save_model(folder: Path, model=None) -> Path:
    """Writes a model and the tokenizer into a folder and returns the folder.

    model: None: a tiny Llama without a padding token in its configuration.
    """
    model = model or tiny_model("llama", pad_token_id=None)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_text(path: Path, lines: list[str]) -> Path:
    """Writes texts in the format that belongs to the path's suffix (.txt, .jsonl, .parquet, .gz). Returns the path."""
    open_file = gzip.open if path.suffix == ".gz" else open
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": lines}), path)
        return path
    as_json = ".jsonl" in path.suffixes
    with open_file(path, "wt", encoding="utf-8") as file:
        file.writelines((json.dumps({"text": line}) if as_json else line) + "\n" for line in lines)
    return path
