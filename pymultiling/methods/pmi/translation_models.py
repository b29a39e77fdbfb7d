"""How models made for translation are told the languages: NLLB, M2M100 and mBART by tokens, Marian in the text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pymultiling.data.languages import language_name
from pymultiling.methods.pmi.translation_requests import Request


def encoded(tokenizer, request: Request, name: str) -> list[int]:
    """The tokens of a text for the encoder.

    Args:
        tokenizer: the model's; is left as it was.
        request: for a translation.
        name: the model's, for messages.

    Raises:
        ValueError: the request is for something else; a language is not the model's, or cannot be told it.
    """
    if request.target is None:
        raise ValueError(f"{name} only translates: to say it in other words takes a model that can be told to")
    if not hasattr(tokenizer, "src_lang"):
        return tokenizer(_marian_text(tokenizer, request, name), verbose=False)["input_ids"]
    language_token(tokenizer, request.source, name)
    language_token(tokenizer, request.target, name)
    with _source_language(tokenizer, request.source):
        return tokenizer(request.text, verbose=False)["input_ids"]


def language_token(tokenizer, code: str, name: str) -> int:
    """The token of a language, by the model's own code; ValueError where there is none."""
    if hasattr(tokenizer, "get_lang_id"):
        known, found = tokenizer.lang_code_to_id, tokenizer.lang_code_to_id.get(code)
    else:
        known = tokenizer.all_special_tokens  # another token may be spelt like a code
        found = tokenizer.convert_tokens_to_ids(code) if code in known else None
    if found is None:
        raise ValueError(f"{name} has no language {code!r}: give its own codes, such as {' '.join(list(known)[-3:])}")
    return found


@contextmanager
def _source_language(tokenizer, code: str) -> Iterator[None]:
    before = tokenizer.src_lang
    tokenizer.src_lang = code
    try:
        yield
    finally:
        tokenizer.src_lang = before


def _marian_text(tokenizer, request: Request, name: str) -> str:
    """The text, with the target's token in front where the model has several targets."""
    targets = getattr(tokenizer, "supported_language_codes", None)
    if targets is None:
        raise ValueError(
            f"{name} cannot be told which languages to translate between: give NLLB, M2M100, mBART-50 or a Marian model"
        )
    _check_language(getattr(tokenizer, "source_lang", None), request.source, "from", name)
    if not targets:
        _check_language(getattr(tokenizer, "target_lang", None), request.target, "into", name)
        return request.text
    if f">>{request.target}<<" not in targets:
        raise ValueError(f"{name} does not translate into {request.target!r}, only into {' '.join(targets)}")
    return f">>{request.target}<< {request.text}"


def _check_language(own: str | None, code: str, way: str, name: str) -> None:
    """Refuses another language than the model's own; a code of several, such as "mul" or "cat+oci", says nothing."""
    known = _language(own) if own and own.isalpha() else None
    if known is not None and code != own and _language(code) != known:
        raise ValueError(f"{name} translates only {way} {own!r}: for {code!r} give a model that has it")


def _language(code: str) -> str | None:
    """The name of a code's language, whatever the script and country; None where it is unknown."""
    try:
        return language_name(code.replace("-", "_").partition("_")[0])
    except ValueError:
        return None
