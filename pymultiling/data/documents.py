"""Tokenises texts into documents, which are lists of token ids with a maximum length."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from tokenizers import AddedToken

from pymultiling.data.corpora import CorpusReport

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

TEXTS_AT_A_TIME = 256  # tokenizers work on several texts in parallel
# Endings of a tokenizer's options that tell where it was loaded from, or that do not change the tokens of texts.
LOADING = ("_file", "_path", "is_local", "local_files_only", "chat_template", "model_max_length", "processor_class")


def tokenise(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    report: CorpusReport,
    pack: int | None = None,
) -> Iterator[list[int]]:
    """Yields the documents of the texts, in order.

    Args:
        texts: texts that are not blank.
        tokenizer: a Hugging Face tokenizer. Its special tokens are kept.
        max_length: longer documents are cut to this many tokens. Packed documents are not cut.
        report: the report, which is updated.
        pack: None: each text is a document. Texts of fewer than two tokens are left out: a single token has no context.
            A number: all texts are joined, with an end-of-text token after each if the tokenizer has one, and cut into
            documents of this many tokens. Each document starts with the token that starts a text, if there is one. The
            tokens that do not fill a document at the end are left out.
    """
    if pack is not None:
        yield from _pack(texts, tokenizer, pack, report)
        return
    for tokens in _token_lists(texts, tokenizer):
        if len(tokens) < 2:
            report.short += 1
            continue
        report.cut += len(tokens) > max_length
        yield tokens[:max_length]


def _pack(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, size: int, report: CorpusReport
) -> Iterator[list[int]]:
    opening = [token for token in tokenizer("")["input_ids"] if token == tokenizer.bos_token_id]
    closing = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if size <= len(opening):
        raise ValueError(f"documents of {size} tokens have no room for text; pack more tokens")
    tokens = list(opening)
    for text_tokens in _token_lists(texts, tokenizer, add_special_tokens=False):
        tokens += text_tokens + closing
        while len(tokens) >= size:
            yield tokens[:size]
            tokens = opening + tokens[size:]
    report.left_over += len(tokens) - len(opening)


def _token_lists(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, add_special_tokens: bool = True
) -> Iterator[list[int]]:
    texts = iter(texts)
    while part := list(islice(texts, TEXTS_AT_A_TIME)):
        encoded = tokenizer(part, return_attention_mask=False, verbose=False, add_special_tokens=add_special_tokens)
        yield from encoded["input_ids"]


def tokenise_sentences(
    sentences: Iterable[tuple[int, str]], tokenizer: PreTrainedTokenizerBase, max_length: int, report: CorpusReport
) -> Iterator[tuple[list[int], int]]:
    """Yields the document and the index of each sentence, and updates the report.

    Sentences without a token are left out and count as empty. Longer ones are cut to max_length tokens.

    Args:
        sentences: (index, text) of each sentence.
        tokenizer: a Hugging Face tokenizer.
        max_length: the largest number of tokens.
        report: the report, which is updated.
    """
    sentences = iter(sentences)
    while part := list(islice(sentences, TEXTS_AT_A_TIME)):
        for (index, _), tokens in zip(part, _token_lists((text for _, text in part), tokenizer)):
            if not tokens:
                report.empty += 1
                continue
            report.cut += len(tokens) > max_length
            yield tokens[:max_length], index


def tokenise_pairs(
    pairs: Iterable[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, max_length: int, report: CorpusReport
) -> Iterator[tuple[list[int], int]]:
    """Yields the document of each prompt with its response, and the index of the response's first token.

    The response starts where the tokens of both together first differ from those of the prompt alone. Longer documents
    are cut to max_length tokens. Pairs without a token are left out and count as short.

    Args:
        pairs: prompts and responses.
        tokenizer: a Hugging Face tokenizer.
        max_length: the largest number of tokens.
        report: the report, which is updated.
    """
    pairs = iter(pairs)
    while part := list(islice(pairs, TEXTS_AT_A_TIME)):
        documents = _token_lists((prompt + response for prompt, response in part), tokenizer)
        prompts = _token_lists((prompt.rstrip(" ") for prompt, _ in part), tokenizer)
        for document, prompt_tokens in zip(documents, prompts):
            if not document:
                report.short += 1
                continue
            report.cut += len(document) > max_length
            differing = (index for index, (a, b) in enumerate(zip(prompt_tokens, document)) if a != b)
            yield document[:max_length], next(differing, len(prompt_tokens))


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns a hash of everything that determines a tokenizer's tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        options = {
            name: value
            for name, value in tokenizer.init_kwargs.items()
            if value is not None and not name.endswith(LOADING)
        }
        rules = {**tokenizer.get_vocab(), "": [type(tokenizer).__name__, options]}
    else:
        rules = json.loads(backend.to_str())
        for name in ("padding", "truncation"):  # set by earlier calls of the tokenizer
            rules.pop(name, None)
    content = [rules, tokenizer.bos_token_id, tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=_describe).encode()).hexdigest()[:32]


def _describe(value: object) -> str:
    """Returns a text for a value that JSON cannot hold. For most objects it is their type: a repr has an address."""
    return repr(value) if isinstance(value, AddedToken) else type(value).__name__


def document_length(model: nn.Module, max_length: int, batch_tokens: int | None, pack: int | None) -> int:
    """Checks the three options and returns the maximum number of tokens of a document.

    It is max_length, or the number of the model's positions if that is smaller.

    Args:
        model: the model, whose positions limit the length.
        max_length: the maximum number of tokens that the user gave.
        batch_tokens: tokens of a batch; None: not decided yet. It is only checked.
        pack: tokens of a packed document, or None without packing. It is only checked.

    Raises:
        ValueError: an argument is out of range, or packed documents would be longer than the maximum.
    """
    if max_length < 2 or (batch_tokens is not None and batch_tokens < 1) or (pack is not None and pack < 2):
        raise ValueError("max_length and pack must be at least 2 tokens, batch_tokens at least 1")
    positions: int = getattr(model.config, "max_position_embeddings", None) or max_length
    length = min(max_length, positions)
    if pack is not None and pack > length:
        raise ValueError(
            f"documents of {pack} packed tokens do not fit: max_length is {max_length} and the model has {positions} "
            "positions; pack fewer tokens, or raise max_length"
        )
    return length
