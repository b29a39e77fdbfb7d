"""Parallel inputs that a model makes: translations, paraphrases and back-translations (arXiv 2403.09073)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args, overload

from pymultiling.data.corpora import replace_lone_surrogates
from pymultiling.errors import CorpusError
from pymultiling.methods.pmi.cache import Cache
from pymultiling.methods.pmi.cached_answers import CachedResponder, Responder
from pymultiling.methods.pmi.items import ParallelItem
from pymultiling.methods.pmi.translation_requests import Request, abbreviate
from pymultiling.runtime.progress import show_progress

Translation: TypeAlias = Literal["translation", "back-translation"]
Paraphrase: TypeAlias = Literal["paraphrase"]
How: TypeAlias = Literal["translation", "paraphrase", "back-translation"]
METHODS: tuple[How, ...] = get_args(How)


@overload
def translate(
    texts: Sequence[str],
    into: Sequence[str],
    *,
    source: str,
    by: Responder,
    how: Translation = "translation",
    cache: str | Path | None = None,
    names: Mapping[str, str] | None = None,
    progress: bool = True,
) -> dict[str, list[str]]: ...


@overload
def translate(
    texts: Sequence[str],
    into: int,
    *,
    source: str,
    by: Responder,
    how: Paraphrase,
    cache: str | Path | None = None,
    names: Mapping[str, str] | None = None,
    progress: bool = True,
) -> dict[str, list[str]]: ...


def translate(
    texts: Sequence[str],
    into: Sequence[str] | int,
    *,
    source: str,
    by: Responder,
    how: How = "translation",
    cache: str | Path | None = None,
    names: Mapping[str, str] | None = None,
    progress: bool = True,
) -> dict[str, list[str]]:
    """Makes parallel inputs of texts with a model.

    Equal requests are sent only once. Every answer is stored in the cache as soon as it arrives. If a call fails, the
    same call with the same cache requests only the missing answers.

    Source: arXiv 2403.09073.

    Args:
        texts: texts in the source language. Lone surrogates in them are replaced by U+FFFD.
        into: for "translation" the codes of the target languages; for "paraphrase" the number of paraphrases; for
            "back-translation" the codes of the intermediate languages. Translation models such as NLLB need their own
            codes.
        source: the code of the texts' language.
        by: the model or server that answers: a `Generator` or a `Server`.
        how: "translation"; "paraphrase", where each request shows the paraphrases before it; or "back-translation",
            into another language and back.
        cache: a file that stores the answers, which is created if it does not exist; None: the answers are stored in
            memory during this call.
        names: {code: English name}, for languages that are unknown or need another name.
        progress: whether to show progress on stderr.

    Returns:
        {name of an input: texts in their order}. For the source "de", names are "fr", "de~1" and "de~fr".

    Raises:
        TranslationError: a request has no answer.
        CorpusError: a text is empty, or `texts` is a plain string.
        CheckpointError: `cache` is another file.
        ValueError: `into` does not suit `how`, or the name of a language is unknown.
    """
    return _translate(texts, into, source, by, how, cache, names, progress)


@overload
def translate_items(
    items: Sequence[ParallelItem],
    into: Sequence[str],
    *,
    source: str,
    by: Responder,
    how: Translation = "translation",
    cache: str | Path | None = None,
    names: Mapping[str, str] | None = None,
    progress: bool = True,
) -> list[ParallelItem]: ...


@overload
def translate_items(
    items: Sequence[ParallelItem],
    into: int,
    *,
    source: str,
    by: Responder,
    how: Paraphrase,
    cache: str | Path | None = None,
    names: Mapping[str, str] | None = None,
    progress: bool = True,
) -> list[ParallelItem]: ...


def translate_items(
    items: Sequence[ParallelItem],
    into: Sequence[str] | int,
    *,
    source: str,
    by: Responder,
    how: How = "translation",
    cache: str | Path | None = None,
    names: Mapping[str, str] | None = None,
    progress: bool = True,
) -> list[ParallelItem]:
    """Adds inputs to items, which a model makes from all fields of the source input.

    Source: arXiv 2403.09073.

    Args:
        items: items that have the source input.
        into: as in `translate`.
        source: the name of the input that is translated or paraphrased.
        by: as in `translate`.
        how: as in `translate`.
        cache: as in `translate`.
        names: as in `translate`.
        progress: as in `translate`.

    Returns:
        New items with the added inputs.

    Raises:
        CorpusError: an item lacks the source, or has an input already that would be made.
        TranslationError: as in `translate`.
        CheckpointError: as in `translate`.
        ValueError: as in `translate`.
    """
    for place, item in enumerate(items, 1):
        if source not in item.texts:
            raise CorpusError(f"item {place} has no input {source!r}, only {', '.join(item.texts)}")
    language = source.partition("~")[0]
    _check_into(into, language, how)
    for place, item in enumerate(items, 1):
        existing = [name for name in input_names(into, language, how) if name in item.texts]
        if existing:
            raise CorpusError(
                f"item {place} has an input {existing[0]!r} already: leave it out of the items, or of `into`"
            )
    fields = [(index, field) for index, item in enumerate(items) for field in item.texts[source]]
    texts = [items[index].texts[source][field] for index, field in fields]
    made = _translate(texts, into, source, by, how, cache, names, progress)
    inputs: list[dict[str, dict[str, str]]] = [{name: {} for name in made} for _ in items]
    for name, made_texts in made.items():
        for (index, field), text in zip(fields, made_texts):
            inputs[index][name][field] = text
    return [dataclasses.replace(item, texts={**item.texts, **added}) for item, added in zip(items, inputs)]


def _translate(
    texts: Sequence[str],
    into: Sequence[str] | int,
    source: str,
    by: Responder,
    how: How,
    cache: str | Path | None,
    names: Mapping[str, str] | None,
    progress: bool,
) -> dict[str, list[str]]:
    """Does the work of `translate`, for any combination of `into` and `how`."""
    language = source.partition("~")[0]
    _check_into(into, language, how)
    if isinstance(texts, str):
        raise CorpusError(f"texts must be a list, got the plain string {abbreviate(texts)}")
    texts = list(texts)
    for place, text in enumerate(texts, 1):
        if not isinstance(text, str) or not text.strip():
            raise CorpusError(f"text {place} of {len(texts)} is empty or not a string: leave it out")
    texts = list(map(replace_lone_surrogates, texts))
    answers_per_text = into if isinstance(into, int) else len(into) * (2 if how == "back-translation" else 1)
    with Cache(cache) as answers, show_progress(how, "answers", progress, answers_per_text * len(texts)) as bar:
        responder = CachedResponder(by, answers, bar)
        if isinstance(into, int):
            made = _paraphrase(texts, into, language, responder, names)
        else:
            made = _translate_texts(texts, into, language, responder, names, back=how == "back-translation")
    return dict(zip(input_names(into, language, how), made))


def _paraphrase(
    texts: list[str], number: int, source: str, responder: CachedResponder, names: Mapping[str, str] | None
) -> list[list[str]]:
    """Returns `number` lists with a paraphrase of every text."""
    paraphrases: list[list[str]] = []
    for _ in range(number):
        earlier: list[tuple[str, ...]] = list(zip(*paraphrases)) or [()] * len(texts)
        requests = [Request(text, source, None, versions, names) for text, versions in zip(texts, earlier)]
        paraphrases.append(responder(requests))
    return paraphrases


def _translate_texts(
    texts: list[str],
    codes: Sequence[str],
    source: str,
    responder: CachedResponder,
    names: Mapping[str, str] | None,
    back: bool,
) -> list[list[str]]:
    """Returns for each language code a list with the translation of every text, or with its back-translation."""
    answers = responder([Request(text, source, code, names=names) for code in codes for text in texts])
    if back:
        answer_codes = [code for code in codes for _ in texts]
        answers = responder([Request(text, code, source, names=names) for code, text in zip(answer_codes, answers)])
    return [answers[index * len(texts) :][: len(texts)] for index in range(len(codes))]


def input_names(into: Sequence[str] | int, source: str, how: How) -> list[str]:
    """Returns the names of the inputs that `translate` makes from the input `source`."""
    if isinstance(into, int):
        return [f"{source}~{number}" for number in range(1, into + 1)]
    return list(into) if how == "translation" else [f"{source}~{code}" for code in into]


def _check_into(into: Sequence[str] | int, source: str, how: How) -> None:
    if how not in METHODS:
        raise ValueError(f"how must be one of {', '.join(METHODS)}, got {how!r}")
    if how == "paraphrase":
        if not isinstance(into, int) or isinstance(into, bool) or into < 1:
            raise ValueError(f"how={how!r} needs the number of paraphrases, at least 1: got into={into!r}")
        return
    if isinstance(into, (str, int)) or not into or len(set(into)) < len(into) or source in into:
        raise ValueError(
            f"how={how!r} needs a list of language codes, each once and without the source's own: got into={into!r}"
        )
