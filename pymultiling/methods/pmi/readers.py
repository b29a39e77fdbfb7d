"""Parallel tasks from files and lists. Items that do not match across the languages are an error; none are left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from math import isfinite
from pathlib import Path
from typing import TypeAlias

from pymultiling.data.corpora import replace_lone_surrogates
from pymultiling.data.corpus_types import TextFile
from pymultiling.data.languages import find_language
from pymultiling.data.parallel_texts import read_columns, read_lines
from pymultiling.errors import CorpusError
from pymultiling.methods.pmi.items import ParallelItem, ParallelTask
from pymultiling.methods.pmi.translation_requests import abbreviate
from pymultiling.tasks.metrics import last_number
from pymultiling.tasks.task_files import JsonObject, read_task_records

RecordSource: TypeAlias = str | Path | TextFile | Mapping[str, str | Path | TextFile]

LABELS = ("entailment", "neutral", "contradiction")  # the order in which a task lists those that occur


def translation(
    source: str | Path | TextFile | Mapping[str, Sequence[str] | str | Path | TextFile],
    *,
    target: str,
    languages: Sequence[str] | None = None,
) -> ParallelTask:
    """Translation into one language of sentences in many languages, such as FLORES or NTREX; evaluated by BLEU.

    Args:
        source: the path or URL of a .tsv file whose first line has the languages' codes (a column "id" is ignored);
            or {language: a list of texts, or a path, a URL or a pattern of files with one text per line, or of .jsonl
            (field text) or .parquet files}. All but .parquet may be compressed (.gz, .zst). A `TextFile` gives
            another encoding than UTF-8.
        target: the language whose texts are the references.
        languages: the languages of the inputs; None: all except the target. These and the target may be called by
            another name of the language than in the source (fr, fra_Latn, French). The items have the names given here.

    Returns:
        A task with the metric "bleu" and the template "translation".

    Raises:
        CorpusError: a file cannot be read; or a language is missing, is named twice, has another number of texts, or
            has an empty text.
    """
    columns: dict[str, list[str]] = {}
    if isinstance(source, Mapping):
        for language, texts in source.items():
            columns[language] = read_lines(texts) if isinstance(texts, str | Path | TextFile) else list(texts)
    else:
        columns = read_columns(source)
    where = "the source" if isinstance(source, Mapping) else getattr(source, "path", source)
    target_column = find_language(target, columns, where)
    inputs = [language for language in columns if language != target_column] if languages is None else list(languages)
    if not inputs or target in inputs:
        raise CorpusError(f"the inputs must be one or more languages other than the target {target!r}: got {inputs}")
    for language in (target, *inputs):
        if inputs.count(language) > 1:
            raise CorpusError(f"languages has {language!r} twice: give each language once, got {', '.join(inputs)}")
    names = {language: find_language(language, columns, where) for language in inputs}
    if target_column in names.values():
        raise CorpusError(f"the target {target!r} is among the inputs, {', '.join(inputs)}: leave it out")
    columns = _check_columns({target: columns[target_column], **{name: columns[names[name]] for name in inputs}})
    items = [
        ParallelItem({language: {"text": text} for language, text in zip(inputs, texts, strict=True)}, (reference,))
        for reference, *texts in zip(*columns.values(), strict=True)
    ]
    return ParallelTask("translation", "translation", items, "bleu", stop=("\n",))


def free(texts: Mapping[str, Sequence[str]], references: Sequence[str | Sequence[str]]) -> ParallelTask:
    """Any task whose correct answers are texts, such as summaries; evaluated by BLEU.

    The argument `instruction` of `prompt` says what to do.

    Args:
        texts: {language: texts}.
        references: a correct answer, or several, for each text.

    Returns:
        A task with the metric "bleu" and the template "free".

    Raises:
        CorpusError: the numbers of texts and references differ, or a text or a reference is empty.
    """
    if isinstance(references, str):
        raise CorpusError(f"references must be a list, got the plain string {abbreviate(references)}")
    columns = _check_columns(texts, len(references))
    items = [
        ParallelItem({language: {"text": text} for language, text in zip(columns, parallel, strict=True)}, answers)
        for answers, *parallel in zip(map(_check_references, references, count(1)), *columns.values(), strict=True)
    ]
    return ParallelTask("free", "free", items, "bleu", stop=("\n",))


def math(source: RecordSource) -> ParallelTask:
    """Mathematics, such as MGSM (arXiv 2210.03057); the last number of an answer counts.

    Args:
        source: the path or URL of a .jsonl file (may be .gz or .zst), or a `TextFile`, whose records have lang, id,
            question and answer; or {language: such a file}, without lang.

    Returns:
        A task with the metric "number" and the template "math".

    Raises:
        CorpusError: a file cannot be read, a language lacks a question that another one has, or the answers to a
            question differ.
    """
    items: list[ParallelItem] = []
    for question_id, records in _read_aligned(source, ("question",), "answer").items():
        (first, answer), *rest = ((language, answer) for language, (_, answer) in records.items())
        for language, other_answer in rest:
            number = last_number(other_answer)
            if other_answer != answer and (number is None or number != last_number(answer)):
                raise CorpusError(
                    f"question {question_id!r} must have the same answer in all languages: it is {answer!r} in "
                    f"{first!r}, {other_answer!r} in {language!r}"
                )
        items.append(ParallelItem({language: texts for language, (texts, _) in records.items()}, (answer,)))
    return ParallelTask("math", "math", items, "number", stop=("\n\n",), max_new_tokens=320)


def nli(source: RecordSource) -> ParallelTask:
    """Natural-language inference, such as XNLI (arXiv 1809.05053) or RTE: whether a premise entails a hypothesis.

    The template "nli_premises" shows the hypothesis in the source language only:
    `dataclasses.replace(task, template="nli_premises")`.

    Args:
        source: the path or URL of a .jsonl file (may be .gz or .zst), or a `TextFile`, whose records have lang, id,
            premise, hypothesis and label (a word); or {language: such a file}, without lang.

    Returns:
        A task with the metric "label" and the template "nli".

    Raises:
        CorpusError: a file cannot be read, a language lacks a pair that another one has, the labels of a pair differ,
            or a label is not a word.
    """
    items: list[ParallelItem] = []
    for pair_id, records in _read_aligned(source, ("premise", "hypothesis"), "label").items():
        language_by_label = {label: language for language, (_, label) in records.items()}
        if len(language_by_label) > 1:
            differing = ", ".join(f"{label!r} in {language!r}" for label, language in language_by_label.items())
            raise CorpusError(f"pair {pair_id!r} must have the same label in all languages: it is {differing}")
        (label,) = language_by_label
        items.append(ParallelItem({language: texts for language, (texts, _) in records.items()}, (label,)))
    occurring = dict.fromkeys(item.references[0] for item in items)
    known = [label for label in LABELS if label in occurring]
    labels = (*known, *sorted(label for label in occurring if label not in LABELS))
    return ParallelTask("nli", "nli", items, "label", labels, stop=("\n",), max_new_tokens=16)


def _read_aligned(
    source: RecordSource, fields: Sequence[str], answer: str
) -> dict[str, dict[str, tuple[dict[str, str], str]]]:
    """Reads the records that have the same id in every language.

    Args:
        source: as in `math`.
        fields: the names of the fields with texts.
        answer: the name of the field with the answer.

    Returns:
        {id: {language: ({field: text}, answer)}}, in the order of the first language.
    """
    by_language: dict[str, dict[str, tuple[dict[str, str], str]]] = {}
    for language, record, where in _read_records(source):
        record_id, value = record.get("id"), record.get(answer)
        if answer == "label" and not isinstance(value, str | None):
            raise CorpusError(f"{where} needs a 'label' that is a word, such as {LABELS[0]}; got {value!r}")
        if not _is_a(record_id, (str, int)) or not _is_a(value, (str, int, float)) or not str(value).strip():
            raise CorpusError(f"{where} needs an 'id' and the field {answer!r}")
        texts: dict[str, str] = {}
        for field in fields:
            text = record.get(field)
            if not isinstance(text, str) or not text.strip():
                raise CorpusError(f"{where} needs a non-empty string {field!r}")
            texts[field] = text
        records = by_language.setdefault(language, {})
        if str(record_id) in records:
            raise CorpusError(f"{where}: {language!r} has the id {str(record_id)!r} twice; keep one record")
        records[str(record_id)] = texts, str(value)
    if not by_language:
        raise CorpusError(f"{getattr(source, 'path', source)} has no records: give a file with at least one")
    for language, records in by_language.items():
        for complete_language, complete in by_language.items():
            missing = next((record_id for record_id in complete if record_id not in records), None)
            if missing is not None:
                raise CorpusError(
                    f"{language!r} lacks the id {missing!r}, which {complete_language!r} has: add it, or leave it out"
                )
    first = next(iter(by_language.values()))
    return {
        record_id: {language: records[record_id] for language, records in by_language.items()} for record_id in first
    }


def _is_a(value: object, types: tuple[type, ...]) -> bool:
    """Whether a JSON value has one of the types and is a finite number if it is one. True and false are no numbers."""
    is_finite = not isinstance(value, float) or isfinite(value)
    return isinstance(value, types) and not isinstance(value, bool) and is_finite


def _read_records(source: RecordSource) -> Iterator[tuple[str, JsonObject, str]]:
    """Yields language, record and position in the file of every record."""
    files: Iterable[tuple[str | None, str | Path | TextFile]]
    files = source.items() if isinstance(source, Mapping) else [(None, source)]
    for language, file in files:
        for record, where in read_task_records(file):
            record_language = language or record.get("lang")
            if not isinstance(record_language, str):
                raise CorpusError(f"{where} needs a string 'lang'")
            yield record_language, record, where


def _check_columns(columns: Mapping[str, Sequence[str]], references: int | None = None) -> dict[str, list[str]]:
    """Returns the texts with lone surrogates replaced.

    Args:
        columns: {language: texts}.
        references: the number of references; None: there are none.

    Raises:
        CorpusError: the numbers of texts and references differ, or a text is empty.
    """
    for language, texts in columns.items():
        if isinstance(texts, str):
            raise CorpusError(f"the texts in {language!r} must be a list, got the plain string {abbreviate(texts)}")
    counts = {repr(language): len(texts) for language, texts in columns.items()}
    if references is not None:
        counts["the references"] = references
    if len(set(counts.values())) > 1:
        differing = ", ".join(f"{label} {number}" for label, number in counts.items())
        raise CorpusError(f"every language must have as many texts: there are {differing}")
    if not columns or not next(iter(counts.values())):
        raise CorpusError("there are no texts: give at least one in every language")
    for language, texts in columns.items():
        for place, text in enumerate(texts, 1):
            if not isinstance(text, str) or not text.strip():
                raise CorpusError(
                    f"text {place} in {language!r} is empty or not a string: give a text, or leave it out in all"
                )
    return {language: list(map(replace_lone_surrogates, texts)) for language, texts in columns.items()}


def _check_references(references: str | Sequence[str], place: int) -> tuple[str, ...]:
    """Returns the correct answers to the text number `place`."""
    answers: tuple[str, ...]
    if isinstance(references, str) or not isinstance(references, Iterable):
        answers = (references,)
    else:
        answers = tuple(references)
    if not answers or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise CorpusError(f"text {place} has no correct answer, or an empty one: give a string, or a list of strings")
    return tuple(map(replace_lone_surrogates, answers))
