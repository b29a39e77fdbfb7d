"""Parallel inputs made by a model: translations, the same in other words, and back-translations (arXiv 2403.09073)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from pymultiling.data.corpora import replace_lone_surrogates
from pymultiling.errors import CorpusError
from pymultiling.methods.pmi.cache import Cache
from pymultiling.methods.pmi.cached_answers import Answers, Asking
from pymultiling.methods.pmi.items import ParallelItem
from pymultiling.methods.pmi.translation_requests import Request, shortly
from pymultiling.runtime.progress import show_progress

TRANSLATION, PARAPHRASE, BACK_TRANSLATION = HOW = ("translation", "paraphrase", "back-translation")


def translate(
    texts: Sequence[str],
    into: Sequence[str] | int,
    *,
    source: str,
    by: Answers,
    how: str = TRANSLATION,
    cache: str | Path | None = None,
    names: Mapping[str, str] | None = None,
    progress: bool = False,
) -> dict[str, list[str]]:
    """Parallel inputs of texts.

    The same is asked once, however often it occurs. Every answer is kept as soon as it is there: what is called again after a
    failure, with the same cache, asks only for what is missing.

    Args:
        texts: in the source language; halves of surrogate pairs in them are replaced by U+FFFD.
        into: for "translation" languages' codes; for "paraphrase" how many; for "back-translation" codes of the languages that
            the texts go through. A translation model such as NLLB takes its own codes.
        source: the texts' language, a code.
        by: who is asked: `Server` or `Generator`.
        how: "translation"; "paraphrase", the same in other words, each time shown those before; "back-translation", into another
            language and back.
        cache: a file to keep answers in, made where there is none; None: in memory, for this call.
        names: {code: English name}, of languages that are to be called otherwise, or are not known.
        progress: show it on stderr.

    Returns:
        {name of an input: texts in their order}: for a source "de" names are "fr", "de~1" and "de~fr".

    Raises:
        TranslationError: not everything was answered.
        CorpusError: a text is empty, or the texts are a plain string.
        CheckpointError: the cache is another file.
        ValueError: `into` does not suit, or a language's name is not known.
    """
    language = source.partition("~")[0]
    _check(into, language, how)
    if isinstance(texts, str):
        raise CorpusError(f"texts must be a list, got the plain string {shortly(texts)}")
    texts = list(texts)
    for place, text in enumerate(texts, 1):
        if not isinstance(text, str) or not text.strip():
            raise CorpusError(f"text {place} of {len(texts)} is empty, or is no string")
    texts = list(map(replace_lone_surrogates, texts))
    steps = into if how == PARAPHRASE else len(into) * (2 if how == BACK_TRANSLATION else 1)
    with Cache(cache) as kept, show_progress(how, "answers", progress, steps * len(texts)) as bar:
        return _parallel(texts, into, language, how, Asking(by, kept, bar), names)


def translate_items(
    items: Sequence[ParallelItem],
    into: Sequence[str] | int,
    *,
    source: str,
    by: Answers,
    how: str = TRANSLATION,
    cache: str | Path | None = None,
    names: Mapping[str, str] | None = None,
    progress: bool = False,
) -> list[ParallelItem]:
    """The items with more inputs, made of their source's, all fields of it.

    Args:
        items: which have the source.
        source: the name of the input that is translated.
        into, by, how, cache, names, progress: as `translate` takes them.

    Raises:
        CorpusError: an item lacks the source, or has an input already that is to be made.
        TranslationError, CheckpointError, ValueError: as `translate`.
    """
    for place, item in enumerate(items, 1):
        if source not in item.texts:
            raise CorpusError(f"item {place} has no input {source!r}, only {', '.join(item.texts)}")
    language = source.partition("~")[0]
    _check(into, language, how)
    for place, item in enumerate(items, 1):
        there = [name for name in input_names(into, language, how) if name in item.texts]
        if there:
            raise CorpusError(
                f"item {place} has an input {there[0]!r} already: leave it out of the items, or of `into`"
            )
    places = [(place, field) for place, item in enumerate(items) for field in item.texts[source]]
    texts = [items[place].texts[source][field] for place, field in places]
    options = {"how": how, "cache": cache, "names": names, "progress": progress}
    found = translate(texts, into, source=source, by=by, **options)
    inputs: list[dict[str, dict[str, str]]] = [{name: {} for name in found} for _ in items]
    for name, of_name in found.items():
        for (place, field), text in zip(places, of_name):
            inputs[place][name][field] = text
    return [dataclasses.replace(item, texts={**item.texts, **more}) for item, more in zip(items, inputs)]


def _parallel(
    texts: list[str], into: Sequence[str] | int, source: str, how: str, ask: Asking, names: Mapping[str, str] | None
) -> dict[str, list[str]]:
    if how == PARAPHRASE:
        made: list[list[str]] = []
        for _ in range(into):
            earlier = list(zip(*made)) or [()] * len(texts)
            made.append(ask([Request(text, source, None, so_far, names) for text, so_far in zip(texts, earlier)]))
        return dict(zip(input_names(into, source, how), made))
    found = ask([Request(text, source, code, names=names) for code in into for text in texts])
    if how == BACK_TRANSLATION:
        codes = [code for code in into for _ in texts]
        found = ask([Request(text, code, source, names=names) for code, text in zip(codes, found)])
    return {
        name: found[start * len(texts) :][: len(texts)] for start, name in enumerate(input_names(into, source, how))
    }


def input_names(into: Sequence[str] | int, source: str, how: str) -> list[str]:
    """Names of the inputs that `translate` makes of a source's, by its `into` and `how`."""
    if how == PARAPHRASE:
        return [f"{source}~{number}" for number in range(1, into + 1)]
    return list(into) if how == TRANSLATION else [f"{source}~{code}" for code in into]


def _check(into: Sequence[str] | int, source: str, how: str) -> None:
    if how not in HOW:
        raise ValueError(f"how must be one of {', '.join(HOW)}, got {how!r}")
    if how == PARAPHRASE:
        if not isinstance(into, int) or isinstance(into, bool) or into < 1:
            raise ValueError(f"how={how!r} takes a number, how many are made: into={into!r} is none")
        return
    if isinstance(into, (str, int)) or not into or len(set(into)) < len(into) or source in into:
        raise ValueError(
            f"how={how!r} takes a list of languages' codes, each once and without the source's own: got into={into!r}"
        )
