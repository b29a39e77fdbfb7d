"""From texts to documents: lists of token ids, none longer than allowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from pymultiling.data.corpora import CorpusReport

TEXTS_AT_A_TIME = 256  # tokenizers work on batches in parallel


def tokenise(
    texts: Iterable[str], tokenizer, max_length: int, report: CorpusReport, pack: int | None = None
) -> Iterator[list[int]]:
    """Documents of the texts, in their order.

    Args:
        texts: nothing empty among them.
        tokenizer: a Hugging Face tokenizer; its special tokens are kept.
        max_length: longer documents are cut to this many tokens.
        report: is added to.
        pack: join consecutive texts and cut the whole into documents of this many tokens (at most max_length); the rest
            at the end is left over. None: a text is a document.
    """
    token_lists = _token_lists(texts, tokenizer)
    if pack is not None:
        yield from _packed(token_lists, min(pack, max_length), report)
        return
    for tokens in token_lists:
        report.cut += len(tokens) > max_length
        if tokens:
            yield tokens[:max_length]


def _token_lists(texts: Iterable[str], tokenizer) -> Iterator[list[int]]:
    texts = iter(texts)
    while some := list(islice(texts, TEXTS_AT_A_TIME)):
        yield from tokenizer(some, add_special_tokens=True, return_attention_mask=False, verbose=False)["input_ids"]


def _packed(token_lists: Iterable[list[int]], size: int, report: CorpusReport) -> Iterator[list[int]]:
    rest: list[int] = []
    for tokens in token_lists:
        rest += tokens
        while len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]
    report.left_over += len(rest)


def longest_document(model, max_length: int) -> int:
    """max_length, or fewer where the model has fewer positions."""
    return min(max_length, getattr(model.config, "max_position_embeddings", None) or max_length)
