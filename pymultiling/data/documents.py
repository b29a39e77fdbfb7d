"""Tokenises texts into documents, which are lists of token ids with a maximum length."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from tokenizers import AddedToken

from pymultiling.data.added_tokens import AddedTokens, added_tokens, encode_alone
from pymultiling.data.chat import ChatFrame
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.long_texts import cut_text
from pymultiling.models.positions import position_limit

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
    *,
    is_open: bool = False,
    at_a_time: int = TEXTS_AT_A_TIME,
) -> Iterator[list[int]]:
    """Yields the documents of the texts, in order.

    Args:
        texts: texts that are not blank.
        tokenizer: a Hugging Face tokenizer. The tokens that it puts around a text are kept.
        max_length: longer documents are cut to this many tokens. Packed documents are not cut.
        report: the report, which is updated.
        pack: None: each text is a document. Texts without a token of their own, and those of a single token, are left
            out: a single token has no context. A number: all texts are joined and cut into documents of this many
            tokens. The tokens that the tokenizer puts before a text begin each document. Those that it puts after a
            text follow each text; if there are none, an end-of-text token does, if the tokenizer has one. The tokens
            that do not fill a document at the end are left out.
        is_open: whether the tokens that the tokenizer puts after a text are left out, where `pack` is None.
        at_a_time: how many texts are read and tokenised at a time.
    """
    before, after = added_tokens(tokenizer)
    if pack is not None:
        if not after and tokenizer.eos_token_id is not None:
            after = [tokenizer.eos_token_id]
        yield from pack_texts(texts, tokenizer, AddedTokens(before, after), pack, report, at_a_time)
        return
    after = [] if is_open else after
    for text_tokens in token_lists(texts, tokenizer, max_length, at_a_time):
        tokens = before + text_tokens + after
        if not text_tokens or len(tokens) < 2:
            report.short += 1
            continue
        report.cut += len(tokens) > max_length
        yield tokens[:max_length]


def pack_texts(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    added: AddedTokens,
    size: int,
    report: CorpusReport,
    at_a_time: int = TEXTS_AT_A_TIME,
) -> Iterator[list[int]]:
    """Yields documents of `size` tokens. added.before begins each document, and added.after follows each text."""
    opening, closing = added
    check_room(size, opening, 1)
    tokens = list(opening)
    for text_tokens in token_lists(texts, tokenizer, at_a_time=at_a_time):
        tokens += text_tokens + closing
        while len(tokens) >= size:
            yield tokens[:size]
            tokens = opening + tokens[size:]
    report.left_over += len(tokens) - len(opening)


def check_room(size: int, opening: list[int], needed: int) -> None:
    """Raises ValueError if documents of `size` tokens have no room for `needed` tokens of text."""
    if size < len(opening) + needed:
        raise ValueError(
            f"documents of {size} tokens have no room for text after {len(opening)} tokens that begin each of them: "
            "make documents longer (pack, max_length)"
        )


def tokenise_predicted(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    report: CorpusReport,
    pack: int | None = None,
    chat: ChatFrame | None = None,
    *,
    at_a_time: int = TEXTS_AT_A_TIME,
) -> Iterator[tuple[list[int], int]]:
    """Yields the documents whose tokens a model is to predict, each with the index of the first one that counts.

    Only tokens of texts count, not those that the tokenizer or a chat template adds, and each counts once. A document
    holds tokens of one text, after those that come before a text. If none do, the first token of a text has no context
    and does not count.

    Args:
        texts: texts that are not blank.
        tokenizer: a Hugging Face tokenizer.
        max_length: longer texts are cut, so that a document has this many tokens.
        report: the report, which is updated.
        pack: None: texts are cut. A number: they are not. A text that needs more than this many tokens becomes several
            documents. Each but the first repeats the last token of the one before it, as the context of its own first
            token.
        chat: the chat template in which each text is a message. None: texts stand alone.
        at_a_time: how many texts are read and tokenised at a time.
    """
    size = pack or max_length
    check_room(size, _opening(tokenizer, chat), 2)
    for opening, text_tokens in _opened_texts(texts, tokenizer, None if pack else max_length, chat, at_a_time):
        if not text_tokens or len(opening) + len(text_tokens) < 2:
            report.short += 1
            continue
        room = size - len(opening)
        report.cut += pack is None and len(text_tokens) > room
        yield opening + text_tokens[:room], max(1, len(opening))
        if pack is None:
            continue
        for start in range(room - 1, len(text_tokens) - 1, room - 1):
            yield opening + text_tokens[start : start + room], len(opening) + 1


def tokenise_messages(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    report: CorpusReport,
    pack: int | None,
    chat: ChatFrame,
    *,
    at_a_time: int = TEXTS_AT_A_TIME,
) -> Iterator[tuple[list[int], int]]:
    """Yields the documents of texts that are messages, each with the index of the first token of its text.

    A document is the beginning of a conversation: what the template puts before a message, and the message. What comes
    after the message cannot change what a decoder computes for it, and is left out.

    Args:
        texts: texts that are not blank.
        tokenizer: a Hugging Face tokenizer.
        max_length: longer documents are cut to this many tokens. Packed documents are not cut.
        report: the report, which is updated.
        pack: None: each text is a message. A number: texts are joined, each with a line break after it, and cut so that
            documents have this many tokens. The tokens that do not fill a document at the end are left out.
        chat: the chat template.
        at_a_time: how many texts are read and tokenised at a time.
    """
    opening = _opening(tokenizer, chat)
    if pack is not None:
        added = AddedTokens(opening, encode_alone(tokenizer, "\n"))
        yield from ((tokens, len(opening)) for tokens in pack_texts(texts, tokenizer, added, pack, report, at_a_time))
        return
    check_room(max_length, opening, 1)
    for before, text_tokens in _opened_texts(texts, tokenizer, max_length, chat, at_a_time):
        if not text_tokens:
            report.short += 1
            continue
        tokens = before + text_tokens
        report.cut += len(tokens) > max_length
        yield tokens[:max_length], len(before)


def _opening(tokenizer: PreTrainedTokenizerBase, chat: ChatFrame | None) -> list[int]:
    """Returns the tokens that come before a text."""
    return added_tokens(tokenizer).before if chat is None else encode_alone(tokenizer, chat.before)


def _opened_texts(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    chat: ChatFrame | None,
    at_a_time: int,
) -> Iterator[tuple[list[int], list[int]]]:
    """Yields for each text the tokens before it and its own, at least max_length + 1 in all if there are so many.

    In a chat template the tokens of a text are found in those of the conversation: they begin where the conversation's
    tokens first differ from those of what comes before the text. A token of both is one of the text.
    """
    opening = _opening(tokenizer, chat)
    if chat is None:
        yield from ((opening, tokens) for tokens in token_lists(texts, tokenizer, max_length, at_a_time))
        return
    for tokens in token_lists(map(chat.opened, texts), tokenizer, max_length, at_a_time):
        start = _first_difference(opening, tokens)
        yield tokens[:start], tokens[start:]


def _first_difference(opening: list[int], tokens: list[int]) -> int:
    """Returns the index of the first token that differs from those of the opening, or the opening's length."""
    return next((index for index, (a, b) in enumerate(zip(opening, tokens)) if a != b), len(opening))


def token_lists(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    at_a_time: int = TEXTS_AT_A_TIME,
) -> Iterator[list[int]]:
    """Yields the tokens of each text, without those that the tokenizer adds.

    Args:
        texts: the texts.
        tokenizer: a Hugging Face tokenizer.
        max_length: None: all tokens. A number: at least one more than this many, if the text has them.
        at_a_time: how many texts are read and tokenised at a time.
    """
    texts = iter(texts)
    while part := list(islice(texts, at_a_time)):
        if max_length is not None:
            part = [cut_text(text, tokenizer, max_length) for text in part]
        yield from tokenizer(part, return_attention_mask=False, verbose=False, add_special_tokens=False)["input_ids"]


def tokenise_sentences(
    sentences: Iterable[tuple[int, str]], tokenizer: PreTrainedTokenizerBase, max_length: int, report: CorpusReport
) -> Iterator[tuple[list[int], int]]:
    """Yields the document and the index of each sentence, and updates the report.

    The tokens that the tokenizer puts around a text are kept. Sentences without a token of their own are left out and
    count as empty. Longer documents are cut to max_length tokens.

    Args:
        sentences: (index, text) of each sentence.
        tokenizer: a Hugging Face tokenizer.
        max_length: the largest number of tokens.
        report: the report, which is updated.
    """
    before, after = added_tokens(tokenizer)
    sentences = iter(sentences)
    while part := list(islice(sentences, TEXTS_AT_A_TIME)):
        for (index, _), text_tokens in zip(part, token_lists((text for _, text in part), tokenizer, max_length)):
            if not text_tokens:
                report.empty += 1
                continue
            tokens = before + text_tokens + after
            report.cut += len(tokens) > max_length
            yield tokens[:max_length], index


def tokenise_pairs(
    pairs: Iterable[tuple[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    report: CorpusReport,
    chat: ChatFrame | None = None,
    *,
    at_a_time: int = TEXTS_AT_A_TIME,
) -> Iterator[tuple[list[int], int]]:
    """Yields the document of each prompt with its response, and the index of the response's first token.

    The response starts where the tokens of both together first differ from those of the prompt alone. Tokens that the
    tokenizer puts after a text are left out, since they belong to neither. Longer documents are cut to max_length
    tokens. Pairs without a token of their own are left out and count as short.

    Args:
        pairs: prompts and responses.
        tokenizer: a Hugging Face tokenizer.
        max_length: the largest number of tokens.
        report: the report, which is updated.
        chat: the chat template in which each prompt is the message of the user, and the response the answer. None: the
            response follows the prompt.
        at_a_time: how many pairs are read and tokenised at a time.
    """
    before = added_tokens(tokenizer).before if chat is None else []  # a template has them itself
    if chat is not None:
        check_room(max_length, encode_alone(tokenizer, chat.prompt("")), 1)
        pairs = ((chat.prompt(prompt), response) for prompt, response in pairs)
    pairs = iter(pairs)
    while part := list(islice(pairs, at_a_time)):
        pair_tokens = token_lists((prompt + response for prompt, response in part), tokenizer, max_length)
        prompts = token_lists((prompt.rstrip(" ") for prompt, _ in part), tokenizer, max_length)
        for both, prompt_tokens in zip(pair_tokens, prompts):
            if not both:
                report.short += 1
                continue
            document = before + both
            report.cut += len(document) > max_length
            yield document[:max_length], len(before) + _first_difference(prompt_tokens, both)


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
    positions = position_limit(model) or max_length
    length = min(max_length, positions)
    if pack is not None and pack > length:
        raise ValueError(
            f"documents of {pack} packed tokens do not fit: max_length is {max_length} and the model has {positions} "
            "positions; pack fewer tokens, or raise max_length"
        )
    return length
