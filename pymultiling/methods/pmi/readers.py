"""Parallel tasks from files and lists. Items that do not match across the languages are an error; none are left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path

from pymultiling.data.corpora import replace_lone_surrogates
from pymultiling.data.corpus_types import TextFile
from pymultiling.data.languages import find_language
from pymultiling.data.parallel_texts import read_columns, read_lines
from pymultiling.errors import CorpusError
from pymultiling.methods.pmi.items import ParallelItem, ParallelTask
from pymultiling.methods.pmi.records import LABELS, RecordSource, read_aligned
from pymultiling.methods.pmi.translation_requests import abbreviate
from pymultiling.tasks.metrics import last_number


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
    """Mathematics, such as MGSM (arXiv 2210.03057) and MSVAMP (arXiv 2310.20246); the last number of an answer counts.

    Args:
        source: {language: file}, or a file whose records have the field lang (or language). A file is a path, a URL or
            a `TextFile`, in the formats of `nli`. Records have question and answer, or the fields m_query and response
            of the published MSVAMP. Records of the same id correspond; those without an id correspond by their order.

    Returns:
        A task with the metric "number" and the template "math".

    Raises:
        CorpusError: a file cannot be read, a record lacks a field (the message names it), a language lacks a question
            that another one has, or the answers to a question differ.
    """
    items: list[ParallelItem] = []
    for name, records in read_aligned(source, ("question",), "answer").items():
        (first, (_, answer)), *rest = records.items()
        for language, (_, other_answer) in rest:
            number = last_number(other_answer)
            if other_answer != answer and (number is None or number != last_number(answer)):
                raise CorpusError(
                    f"the answer of {name} must be the same in all languages: it is {answer!r} in {first!r}, "
                    f"{other_answer!r} in {language!r}"
                )
        items.append(ParallelItem({language: record.texts for language, record in records.items()}, (answer,)))
    return ParallelTask("math", "math", items, "number", stop=("\n\n",), max_new_tokens=320)


def nli(source: RecordSource) -> ParallelTask:
    """Natural-language inference, such as XNLI (arXiv 1809.05053) or RTE: whether a premise entails a hypothesis.

    The template "nli_premises" shows the hypothesis in the source language only:
    `dataclasses.replace(task, template="nli_premises")`.

    Args:
        source: {language: file}, or a file whose records have the field lang (or language). A file is a path, a URL or
            a `TextFile`: .tsv with the columns' names in the first line, .parquet, or any other ending with one JSON
            object per line; all but .parquet may be compressed (.gz, .zst). Records have premise, hypothesis and label,
            a word, or the fields sentence1, sentence2 and gold_label of the published XNLI. A label may be a number
            from 0 to 2, as XNLI has it on the Hugging Face Hub, of one language or of all. Records of the same id (or
            pairID) correspond; those without an id correspond by their order.

    Returns:
        A task with the metric "label" and the template "nli".

    Raises:
        CorpusError: a file cannot be read, a record lacks a field (the message names it), a language lacks a pair that
            another one has, the labels of a pair differ, or a label is neither a word nor such a number.
    """
    items: list[ParallelItem] = []
    for name, records in read_aligned(source, ("premise", "hypothesis"), "label").items():
        language_by_label = {record.answer: language for language, record in records.items()}
        if len(language_by_label) > 1:
            differing = ", ".join(f"{label!r} in {language!r}" for label, language in language_by_label.items())
            raise CorpusError(f"the label of {name} must be the same in all languages: it is {differing}")
        (label,) = language_by_label
        items.append(ParallelItem({language: record.texts for language, record in records.items()}, (label,)))
    occurring = dict.fromkeys(item.references[0] for item in items)
    known = [label for label in LABELS if label in occurring]
    labels = (*known, *sorted(label for label in occurring if label not in LABELS))
    return ParallelTask("nli", "nli", items, "label", labels, stop=("\n",), max_new_tokens=16)


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
