"""How models made for translation are told the languages: NLLB, M2M100 and mBART by tokens, Marian in the text."""

from __future__ import annotations

from pymultiling.pmi.requests import Request


def encoded(tokenizer, request: Request, name: str) -> list[int]:
    """The tokens of a text for the encoder.

    Args:
        tokenizer: the model's.
        request: for a translation.
        name: the model's, for messages.

    Raises:
        ValueError: the request is for something else, or a language is not the model's.
    """
    if request.target is None:
        raise ValueError(f"{name} only translates: to say it in other words takes a model that can be told to")
    if hasattr(tokenizer, "src_lang"):
        language_token(tokenizer, request.source, name)
        language_token(tokenizer, request.target, name)
        tokenizer.src_lang = request.source
    text, targets = request.text, getattr(tokenizer, "supported_language_codes", None)
    if targets:  # a Marian model with several
        if f">>{request.target}<<" not in targets:
            raise ValueError(f"{name} does not translate into {request.target!r}, only into {' '.join(targets)}")
        text = f">>{request.target}<< {text}"
    return tokenizer(text, verbose=False)["input_ids"]


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
