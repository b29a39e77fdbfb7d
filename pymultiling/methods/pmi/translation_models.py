"""How translation models are told the languages: NLLB, M2M100 and mBART by tokens, Marian by a mark in the text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pymultiling.data.languages import language_name
from pymultiling.methods.pmi.translation_requests import Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_source(tokenizer: PreTrainedTokenizerBase, request: Request, name: str) -> list[int]:
    """Returns the encoder's tokens for a request.

    Args:
        tokenizer: the model's tokenizer, which is not changed.
        request: a request for a translation.
        name: the model's name, for messages.

    Raises:
        ValueError: the request is for a paraphrase, the model does not have a language, or it cannot be told a
            language.
    """
    if request.target is None:
        raise ValueError(f"{name} can only translate: give a chat model or a base model for paraphrases")
    if not hasattr(tokenizer, "src_lang"):
        text = _marian_text(tokenizer, request.text, request.source, request.target, name)
        return _tokenise(tokenizer, text)
    language_token(tokenizer, request.source, name)
    language_token(tokenizer, request.target, name)
    with _source_language(tokenizer, request.source):
        return _tokenise(tokenizer, request.text)


def language_token(tokenizer: PreTrainedTokenizerBase, code: str, name: str) -> int:
    """Returns the token of a language.

    Args:
        tokenizer: the model's tokenizer.
        code: the model's own code of the language.
        name: the model's name, for messages.

    Raises:
        ValueError: the model does not have the language.
    """
    known: list[str]
    token: int | None
    if hasattr(tokenizer, "get_lang_id"):
        known, token = list(tokenizer.lang_code_to_id), tokenizer.lang_code_to_id.get(code)
    else:
        known = tokenizer.all_special_tokens  # other tokens may be spelt like a code
        ids = tokenizer.convert_tokens_to_ids(code) if code in known else None
        assert not isinstance(ids, list)  # a list is returned for a list of tokens only
        token = ids
    if token is None:
        raise ValueError(f"{name} has no language {code!r}: give its own codes, such as {' '.join(known[-3:])}")
    return token


def _tokenise(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    tokens: list[int] = tokenizer(text, verbose=False)["input_ids"]
    return tokens


@contextmanager
def _source_language(tokenizer: PreTrainedTokenizerBase, code: str) -> Iterator[None]:
    """Sets the tokenizer's source language inside the block."""
    before = tokenizer.src_lang
    tokenizer.src_lang = code
    try:
        yield
    finally:
        tokenizer.src_lang = before


def _marian_text(tokenizer: PreTrainedTokenizerBase, text: str, source: str, target: str, name: str) -> str:
    """Returns the text, after the token of the target language if the model has several targets."""
    targets = getattr(tokenizer, "supported_language_codes", None)
    if targets is None:
        raise ValueError(
            f"{name} cannot be told which languages to translate between: give NLLB, M2M100, mBART-50 or a Marian model"
        )
    _check_language(getattr(tokenizer, "source_lang", None), source, "from", name)
    if not targets:
        _check_language(getattr(tokenizer, "target_lang", None), target, "into", name)
        return text
    if f">>{target}<<" not in targets:
        raise ValueError(f"{name} does not translate into {target!r}, only into {' '.join(targets)}")
    return f">>{target}<< {text}"


def _check_language(model_code: str | None, code: str, direction: str, name: str) -> None:
    """Raises ValueError if the model's language is another one; a code such as "mul" or "cat+oci" is not checked."""
    model_language = _language_or_none(model_code) if model_code and model_code.isalpha() else None
    if model_language is not None and code != model_code and _language_or_none(code) != model_language:
        raise ValueError(f"{name} translates only {direction} {model_code!r}: for {code!r} give a model that has it")


def _language_or_none(code: str) -> str | None:
    """Returns the English name of a code's language, without script and country; None if it is unknown."""
    try:
        return language_name(code.replace("-", "_").partition("_")[0])
    except ValueError:
        return None
