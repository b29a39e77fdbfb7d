"""Records of tasks that correspond across languages, in this package's fields or in those of MSVAMP and XNLI."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import NamedTuple, TypeAlias

from pymultiling.data.corpus_types import TextFile
from pymultiling.errors import CorpusError
from pymultiling.tasks.task_files import JsonObject, read_task_records

RecordSource: TypeAlias = str | Path | TextFile | Mapping[str, str | Path | TextFile]

LABELS = ("entailment", "neutral", "contradiction")  # those of XNLI, in the order of its numbers on the Hub
# {field: the names that it may have}: this package's, then that of the published MSVAMP or XNLI.
NAMES = {
    "id": ("id", "pairID"),
    "lang": ("lang", "language"),
    "question": ("question", "m_query"),
    "answer": ("answer", "response"),
    "premise": ("premise", "sentence1"),
    "hypothesis": ("hypothesis", "sentence2"),
    "label": ("label", "gold_label"),
}
_INTEGER = re.compile(r"-?\d+")  # a label in a .tsv file


class Translated(NamedTuple):
    """A record in one language.

    Attributes:
        texts: {field: text}.
        answer: the correct answer: a number, or a label as a word.
    """

    texts: dict[str, str]
    answer: str


def read_aligned(source: RecordSource, fields: Sequence[str], answer: str) -> dict[str, dict[str, Translated]]:
    """Reads the records that have the same id in every language. Records without an id correspond by their order.

    Args:
        source: as in `math`.
        fields: the fields with texts.
        answer: the field with the answer, "answer" or "label".

    Returns:
        {what messages call a record: {language: record}}, in the order of the first language.

    Raises:
        CorpusError: a file cannot be read, a record lacks a field or has another value there, only some records of a
            language have ids, or a language lacks a record that another one has.
    """
    by_language: dict[str, dict[str, Translated]] = {}
    with_ids: dict[str, bool] = {}  # whether the first record of a language has an id
    for language, record, where in _read_records(source):
        records = by_language.setdefault(language, {})
        has_id = any(name in record for name in NAMES["id"])
        if has_id != with_ids.setdefault(language, has_id):
            states = ("an 'id'", "none") if has_id else ("no 'id'", "one")
            raise CorpusError(
                f"{where} has {states[0]}, and earlier records of {language!r} have {states[1]}: give every record an "
                "id, or none"
            )
        name = _name(record, where) if has_id else f"record {len(records) + 1}"
        if name in records:
            raise CorpusError(f"{where}: {language!r} has {name} twice; keep one record")
        texts = {field: _text(record, field, where) for field in fields}
        records[name] = Translated(texts, (_label if answer == "label" else _number)(record, where))
    if not by_language:
        raise CorpusError(f"{getattr(source, 'path', source)} has no records: give a file with at least one")
    for language, records in by_language.items():
        for complete_language, complete in by_language.items():
            missing = next((name for name in complete if name not in records), None)
            if missing is not None:
                raise CorpusError(
                    f"{language!r} lacks {missing}, which {complete_language!r} has: add it, or leave it out"
                )
    first = next(iter(by_language.values()))
    return {name: {language: records[name] for language, records in by_language.items()} for name in first}


def _read_records(source: RecordSource) -> Iterator[tuple[str, JsonObject, str]]:
    """Yields language, record and position in the file of every record.

    Raises:
        CorpusError: a record has no language, or a file that was given for one language has records of several.
    """
    files: Iterable[tuple[str | None, str | Path | TextFile]]
    files = source.items() if isinstance(source, Mapping) else [(None, source)]
    for language, file in files:
        first_language: object = None
        for stored, where in read_task_records(file):
            for record in _by_language(stored) if language is None else [stored]:
                own_language = next((record[name] for name in NAMES["lang"] if record.get(name) is not None), None)
                if language is None and not isinstance(own_language, str):
                    raise CorpusError(
                        f"{where} needs a string 'lang' or 'language'; or give {{language: file}}, in the command "
                        "--inputs CODE=FILE for each language"
                    )
                first_language = own_language if first_language is None else first_language
                if language is not None and own_language != first_language:
                    raise CorpusError(
                        f"{where} is in {own_language!r}, an earlier record is in {first_language!r}, and the file was "
                        f"given for {language!r}: give the file by itself, without a language"
                    )
                yield language or str(own_language), record, where


def _by_language(record: JsonObject) -> Iterator[JsonObject]:
    """Yields a record for each language of one with all languages, as the Hub has them of XNLI; others as they are.

    There the premise is {language: text}, and the hypothesis {"language": languages, "translation": texts}.
    """
    premise, hypothesis = record.get("premise"), record.get("hypothesis")
    if not isinstance(premise, dict) or not isinstance(hypothesis, dict):
        yield record
        return
    languages, texts = hypothesis.get("language"), hypothesis.get("translation")
    if isinstance(languages, list) and isinstance(texts, list):
        hypothesis = dict(zip(languages, texts))
    for language in premise:
        yield {**record, "lang": language, "premise": premise[language], "hypothesis": hypothesis.get(language)}


def _value(record: JsonObject, field: str, where: str) -> object:
    """Returns the value of a field, under whichever of its names the record has."""
    for name in NAMES[field]:
        if name in record:
            return record[name]
    raise CorpusError(f"{where} lacks {' or '.join(map(repr, NAMES[field]))}: it has {', '.join(record) or 'nothing'}")


def _name(record: JsonObject, where: str) -> str:
    """Returns what messages call a record with an id."""
    record_id = _value(record, "id", where)
    if not isinstance(record_id, str | int) or isinstance(record_id, bool):
        raise CorpusError(f"{where} needs an 'id' that is a string or a whole number, got {record_id!r}")
    return f"the id {str(record_id)!r}"


def _text(record: JsonObject, field: str, where: str) -> str:
    text = _value(record, field, where)
    if not isinstance(text, str) or not text.strip():
        raise CorpusError(f"{where} needs a non-empty string {field!r}, got {text!r}")
    return text.strip()


def _number(record: JsonObject, where: str) -> str:
    """Returns the answer, without the .0 that MSVAMP has after whole numbers."""
    value = _value(record, "answer", where)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if not is_number and not (isinstance(value, str) and value.strip()):
        raise CorpusError(f"{where} needs an 'answer' that is a number, got {value!r}")
    return str(value).strip().removesuffix(".0")


def _label(record: JsonObject, where: str) -> str:
    """Returns the label as a word. A number is one of XNLI, unless the record has the "idx" of GLUE and SuperGLUE."""
    value = _value(record, "label", where)
    word = value.strip() if isinstance(value, str) else ""
    if word and not _INTEGER.fullmatch(word):
        return word
    number = int(word) if word else value
    if type(number) is int and 0 <= number < len(LABELS) and "idx" not in record:
        return LABELS[number]
    raise CorpusError(
        f"{where} needs a 'label' that is a word, such as {LABELS[0]}, or XNLI's number of one "
        f"({', '.join(f'{number} {word}' for number, word in enumerate(LABELS))}), got {value!r}"
        + (" in a record with 'idx', which is of a task with other numbers" if "idx" in record else "")
    )
