"""From texts to documents: lists of token ids, none longer than allowed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice

from tokenizers import AddedToken

from pymultiling.data.corpora import CorpusReport

TEXTS_AT_A_TIME = 256  # tokenizers work on several texts in parallel
# Endings of a tokenizer's options that say where it came from, or that texts do not depend on.
LOADING = ("_file", "_path", "is_local", "local_files_only", "chat_template", "model_max_length", "processor_class")


def tokenise(
    texts: Iterable[str], tokenizer, max_length: int, report: CorpusReport, pack: int | None = None
) -> Iterator[list[int]]:
    """Documents of the texts, in their order.

    Args:
        texts: nothing empty among them.
        tokenizer: a Hugging Face tokenizer; its special tokens are kept.
        max_length: longer documents are cut to this many tokens.
        report: is added to.
        pack: join consecutive texts, an end-of-text token behind each where the tokenizer has one, and cut the whole into
            documents of this many tokens, each opened as the tokenizer opens a text; what does not
            fill a document at the end is left over. None: a text is a document; texts of a single token, which has
            nothing to attend to and nothing to predict, are left out.
    """
    if pack is not None:
        yield from _packed(texts, tokenizer, pack, report)
        return
    for tokens in _token_lists(texts, tokenizer, add_special_tokens=True):
        if len(tokens) < 2:
            report.short += 1
            continue
        report.cut += len(tokens) > max_length
        yield tokens[:max_length]


def _packed(texts: Iterable[str], tokenizer, size: int, report: CorpusReport) -> Iterator[list[int]]:
    opening = [token for token in tokenizer("")["input_ids"] if token == tokenizer.bos_token_id]
    closing = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if size <= len(opening):
        raise ValueError(f"documents of {size} tokens have no room for text; pack more tokens")
    rest = list(opening)
    for tokens in _token_lists(texts, tokenizer, add_special_tokens=False):
        rest += tokens + closing
        while len(rest) >= size:
            yield rest[:size]
            rest = opening + rest[size:]
    report.left_over += len(rest) - len(opening)


def _token_lists(texts: Iterable[str], tokenizer, **options) -> Iterator[list[int]]:
    texts = iter(texts)
    while some := list(islice(texts, TEXTS_AT_A_TIME)):
        yield from tokenizer(some, return_attention_mask=False, verbose=False, **options)["input_ids"]


def tokenise_sentences(
    sentences: Iterable[tuple[int, str]], tokenizer, max_length: int, report: CorpusReport
) -> Iterator[tuple[list[int], int]]:
    """Documents of sentences, a token at least, each with its sentence's place; `report` is added to.

    Sentences without a token count as empty. Longer ones are cut to max_length tokens.
    """
    sentences = iter(sentences)
    while some := list(islice(sentences, TEXTS_AT_A_TIME)):
        for (place, _), tokens in zip(some, _token_lists((text for _, text in some), tokenizer)):
            if not tokens:
                report.empty += 1
                continue
            report.cut += len(tokens) > max_length
            yield tokens[:max_length], place


def tokenise_pairs(
    pairs: Iterable[tuple[str, str]], tokenizer, max_length: int, report: CorpusReport
) -> Iterator[tuple[list[int], int]]:
    """Documents of a prompt and its response, and the place of the response's first token.

    The response begins where the tokens of both together first differ from those of the prompt alone. Longer documents are cut
    to max_length tokens.
    """
    pairs = iter(pairs)
    while some := list(islice(pairs, TEXTS_AT_A_TIME)):
        wholes = _token_lists((prompt + response for prompt, response in some), tokenizer)
        prompts = _token_lists((prompt.rstrip(" ") for prompt, _ in some), tokenizer)
        for whole, prompt in zip(wholes, prompts):
            if not whole:
                report.short += 1
                continue
            report.cut += len(whole) > max_length
            differs = (place for place, (a, b) in enumerate(zip(prompt, whole)) if a != b)
            yield whole[:max_length], next(differs, len(prompt))


def tokenizer_hash(tokenizer) -> str:
    """A hash of all that decides a tokenizer's tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        given = tokenizer.init_kwargs.items()
        options = {name: value for name, value in given if value is not None and not name.endswith(LOADING)}
        rules = {**tokenizer.get_vocab(), "": [type(tokenizer).__name__, options]}
    else:
        rules = json.loads(backend.to_str())
        for name in ("padding", "truncation"):  # what a call before left there
            rules.pop(name, None)
    whole = [rules, tokenizer.bos_token_id, tokenizer.eos_token_id]
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=_written).encode()).hexdigest()[:32]


def _written(value) -> str:
    """Of what JSON cannot hold: an added token, and otherwise the kind, since addresses change."""
    return repr(value) if isinstance(value, AddedToken) else type(value).__name__


def document_length(model, max_length: int, batch_tokens: int, pack: int | None) -> int:
    """The tokens that a document may have: max_length, or fewer where the model has fewer positions.

    Raises:
        ValueError: an argument makes no sense, or packed documents would be longer.
    """
    if max_length < 2 or batch_tokens < 1 or (pack is not None and pack < 2):
        raise ValueError("max_length and pack must be at least 2 tokens, batch_tokens at least 1")
    positions = getattr(model.config, "max_position_embeddings", None) or max_length
    length = min(max_length, positions)
    if pack is not None and pack > length:
        raise ValueError(
            f"documents of {pack} packed tokens do not fit: max_length is {max_length} and the model has {positions} "
            "positions; pack fewer tokens, or raise max_length"
        )
    return length
