"""Parallel tasks from files and lists; what does not match across the languages is an error, and nothing is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

from pymultiling.data.corpora import replace_lone_surrogates
from pymultiling.data.parallel_texts import read_columns, read_lines
from pymultiling.data.rows import read_json_records
from pymultiling.errors import CorpusError
from pymultiling.methods.pmi.items import ParallelItem, ParallelTask
from pymultiling.methods.pmi.translation_requests import shortly
from pymultiling.tasks.metrics import number

Rows = str | Path | Mapping[str, str | Path]

LABELS = ("entailment", "neutral", "contradiction")  # the order in which those that occur are named


def translation(
    source: str | Path | Mapping[str, Sequence[str] | str | Path],
    *,
    target: str,
    languages: Sequence[str] | None = None,
) -> ParallelTask:
    """Translation into one language, from sentences in many, such as FLORES or NTREX; scored by BLEU.

    Args:
        source: a .tsv or .tsv.gz file, its first line the languages' codes, "id" no language; or {language: a list of texts, or
            a .txt or .txt.gz file with a text a line}.
        target: the language whose texts are the references.
        languages: those of the inputs; None: all but the target.

    Raises:
        CorpusError: a file cannot be read; a language is not there, is named twice, has another number of texts, or an
            empty one.
    """
    columns = {}
    if isinstance(source, Mapping):
        for language, given in source.items():
            columns[language] = read_lines(given) if isinstance(given, (str, Path)) else list(given)
    else:
        columns = read_columns(source)
    chosen = [one for one in columns if one != target] if languages is None else list(languages)
    if not chosen or target in chosen:
        raise CorpusError(f"looked for {target!r} and for other languages, which are the inputs; got {chosen}")
    for language in (target, *chosen):
        if chosen.count(language) > 1:
            raise CorpusError(f"{language!r} is there twice in languages: give each one once, got {', '.join(chosen)}")
        if language not in columns:
            raise CorpusError(f"there are no texts in {language!r}, only in {', '.join(columns)}")
    columns = _checked({language: columns[language] for language in (target, *chosen)})
    items = [
        ParallelItem({language: {"text": text} for language, text in zip(chosen, texts, strict=True)}, (reference,))
        for reference, *texts in zip(*columns.values(), strict=True)
    ]
    return ParallelTask("translation", "translation", items, "bleu", stop=("\n",))


def free(texts: Mapping[str, Sequence[str]], references: Sequence[str | Sequence[str]]) -> ParallelTask:
    """Any task whose right answers are texts, such as a summary; `prompt` is told by its instruction what to do. Scored by BLEU.

    Args:
        texts: {language: texts}.
        references: for each text a right answer, or several.

    Raises:
        CorpusError: there are not as many texts in every language, and references; a text or a reference is empty.
    """
    if isinstance(references, str):
        raise CorpusError(f"references must be a list, got the plain string {shortly(references)}")
    texts = _checked(texts, len(references))
    items = [
        ParallelItem({language: {"text": text} for language, text in zip(texts, parallel, strict=True)}, answers)
        for answers, *parallel in zip(map(_answers, references, count(1)), *texts.values(), strict=True)
    ]
    return ParallelTask("free", "free", items, "bleu", stop=("\n",))


def math(source: Rows) -> ParallelTask:
    """Mathematics such as MGSM (arXiv 2210.03057); the last number of an answer counts.

    Args:
        source: a .jsonl or .jsonl.gz file whose rows have lang, id, question and answer; or {language: such a file}, without
            lang.

    Raises:
        CorpusError: a file cannot be read, a language lacks a question that another has, or answers to one differ.
    """
    items = []
    for name, rows in _aligned(source, ("question",), "answer").items():
        (first, answer), *others = ((language, answer) for language, (_, answer) in rows.items())
        for language, other in others:
            if other != answer and (number(other) is None or number(other) != number(answer)):
                raise CorpusError(
                    f"question {name!r}: the answer is {answer!r} in {first!r}, {other!r} in {language!r}"
                )
        items.append(ParallelItem({language: texts for language, (texts, _) in rows.items()}, (answer,)))
    return ParallelTask("math", "math", items, "number", stop=("\n\n",), max_new_tokens=320)


def nli(source: Rows) -> ParallelTask:
    """Natural-language inference such as XNLI (arXiv 1809.05053) or RTE: whether a premise entails a hypothesis.

    The template "nli_premises" shows the hypothesis in the source language alone: `replace(task, template="nli_premises")`.

    Args:
        source: a .jsonl or .jsonl.gz file whose rows have lang, id, premise, hypothesis and label (a word); or {language: such
            a file}, without lang.

    Raises:
        CorpusError: a file cannot be read, a language lacks a pair that another has, labels of one differ, or one is
            no word.
    """
    items = []
    for name, rows in _aligned(source, ("premise", "hypothesis"), "label").items():
        labels = {label: language for language, (_, label) in rows.items()}
        if len(labels) > 1:
            told = ", ".join(f"{label!r} in {language!r}" for label, language in labels.items())
            raise CorpusError(f"pair {name!r}: the label is {told}")
        items.append(ParallelItem({language: texts for language, (texts, _) in rows.items()}, tuple(labels)))
    occur = dict.fromkeys(item.references[0] for item in items)
    labels = (*(one for one in LABELS if one in occur), *sorted(one for one in occur if one not in LABELS))
    return ParallelTask("nli", "nli", items, "label", labels, stop=("\n",), max_new_tokens=16)


def _aligned(source: Rows, fields: Sequence[str], answer: str) -> dict[str, dict[str, tuple[dict[str, str], str]]]:
    """{id: {language: (fields, answer)}}, in the order of the first language."""
    found: dict[str, dict[str, tuple[dict[str, str], str]]] = {}
    for language, row, where in _rows(source):
        name, right = row.get("id"), row.get(answer)
        if not isinstance(name, (str, int)) or not isinstance(right, (str, int, float)) or not str(right).strip():
            raise CorpusError(f"{where}: looked for an 'id', and for {answer!r}")
        if answer == "label" and not isinstance(right, str):
            raise CorpusError(f"{where}: looked for a 'label' that is a word, such as {LABELS[0]}; got {right!r}")
        for field in fields:
            if not isinstance(row.get(field), str) or not row[field].strip():
                raise CorpusError(f"{where}: looked for a string {field!r} with something in it")
        of_language = found.setdefault(language, {})
        if str(name) in of_language:
            raise CorpusError(f"{where}: {language!r} has the id {str(name)!r} twice")
        texts = {field: replace_lone_surrogates(row[field]) for field in fields}
        of_language[str(name)] = texts, replace_lone_surrogates(str(right))
    if not found:
        raise CorpusError(f"{source} has no rows")
    for language, rows in found.items():
        for other, of_other in found.items():
            lacks = next((name for name in of_other if name not in rows), None)
            if lacks is not None:
                raise CorpusError(f"{language!r} lacks the id {lacks!r}, which {other!r} has")
    return {name: {language: rows[name] for language, rows in found.items()} for name in next(iter(found.values()))}


def _rows(source: Rows) -> Iterator[tuple[str, dict, str]]:
    """Language, row and place of every row."""
    files = source.items() if isinstance(source, Mapping) else [(None, source)]
    for language, path in files:
        for row, where in read_json_records(Path(path)):
            if not isinstance(row, dict):
                raise CorpusError(f"{where}: looked for an object")
            if language is None and not isinstance(row.get("lang"), str):
                raise CorpusError(f"{where}: looked for a string 'lang'")
            yield language or row["lang"], row, where


def _checked(columns: Mapping[str, Sequence[str]], references: int | None = None) -> dict[str, list[str]]:
    """As many texts in every language, all with something in them; halves of surrogate pairs are replaced."""
    for language, texts in columns.items():
        if isinstance(texts, str):
            raise CorpusError(f"the texts in {language!r} must be a list, got the plain string {shortly(texts)}")
    counts = {repr(language): len(texts) for language, texts in columns.items()}
    if references is not None:
        counts["the references"] = references
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{what} {count}" for what, count in counts.items())
        raise CorpusError(f"every language must have as many texts: there are {told}")
    if not columns or not next(iter(counts.values())):
        raise CorpusError("there are no texts")
    for language, texts in columns.items():
        for place, text in enumerate(texts, 1):
            if not isinstance(text, str) or not text.strip():
                raise CorpusError(f"text {place} in {language!r} is empty, or is no string")
    return {language: list(map(replace_lone_surrogates, texts)) for language, texts in columns.items()}


def _answers(given: str | Sequence[str], place: int) -> tuple[str, ...]:
    """The right answers to a text."""
    answers = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    if not answers or not all(isinstance(one, str) and one.strip() for one in answers):
        raise CorpusError(f"text {place} has no right answer, or an empty one: give a string, or a list of them")
    return tuple(map(replace_lone_surrogates, answers))
