"""Tasks from local files with the fields of the published data sets.

A file has one JSON object per line (.jsonl, or compressed as .jsonl.gz). Every function takes the path of a file whose
records have a field "lang", or {language: path}.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from pymultiling.data.rows import read_json_records
from pymultiling.errors import CorpusError
from pymultiling.tasks.items import Item, Task
from pymultiling.tasks.metrics import UNSPACED

Source: TypeAlias = str | Path | Mapping[str, str | Path]
JsonObject: TypeAlias = dict[str, object]

# {language: (word before a cause, word before an effect)}. They follow the premise. The choice follows in lower case.
CONNECTORS = {
    "en": ("because", "therefore"),
    "et": ("sest", "seetõttu"),
    "ht": ("poukisa", "donk sa"),
    "id": ("karena", "maka"),
    "it": ("perché", "quindi"),
    "qu": ("imataq", "chaymi"),
    "sw": ("kwa sababu", "kwa hiyo"),
    "ta": ("காரணமாக", "எனவே"),
    "th": ("เพราะ", "ดังนั้น"),
    "tr": ("çünkü", "bu yüzden"),
    "vi": ("bởi vì", "vì vậy"),
    "zh": ("因为", "所以"),
}


def mgsm(source: Source, exemplars: Source, shots: int = 8) -> Task:
    """MGSM: grade-school mathematics with worked examples; only the last number of an answer counts.

    Source: arXiv 2210.03057.

    Args:
        source: records with question, without a label, and answer, the number.
        exemplars: records with question and answer. Both begin with a label and a colon, such as "Question:" and
            "Step-by-Step Answer:". The answer is a chain of thought that ends in the number. The labels of a language's
            first exemplar are also used for the questions of `source`.
        shots: how many exemplars of the language precede a question.

    Returns:
        A task with the metric "number".

    Raises:
        CorpusError: a file cannot be read, a field is missing, or a language has fewer exemplars than `shots`, or none.
    """
    exemplars_by_language: dict[str, list[tuple[str, str]]] = {}
    for language, record, where in _read_records(exemplars):
        question, answer = _string_fields(record, where, "question", "answer")
        exemplars_by_language.setdefault(language, []).append((question, answer))
    items: dict[str, list[Item]] = {}
    for language, record, where in _read_records(source):
        question, answer = _string_fields(record, where, "question", "answer")
        available = exemplars_by_language.get(language, [])
        needed = max(shots, 1)  # also without shots an exemplar is needed, for the labels
        if len(available) < needed:
            raise CorpusError(
                f"{where}: {len(available)} exemplars in {language!r} are too few, {needed} are needed: "
                + ("give more exemplars or fewer shots" if needed > 1 else "give at least one, whose labels are used")
            )
        question_label, answer_label = (_leading_label(text) for text in available[0])
        examples = "".join(
            f"{shown_question}\n{shown_answer}\n\n" for shown_question, shown_answer in available[:shots]
        )
        space = answer_label[len(answer_label.rstrip()) :]
        prompt = f"{examples}{question_label}{question}\n{answer_label.rstrip()}"
        items.setdefault(language, []).append(Item(prompt, space + answer, references=(answer,)))
    return Task("MGSM", items, "number", stop=("\n\n",), max_new_tokens=320)


def xquad(source: Source, contexts: Source) -> Task:
    """XQuAD: answers to questions about a paragraph, evaluated by F1 of words.

    The metric "exact match" can be used too: `xquad(...).judged_by("exact match")`.

    Source: arXiv 1910.11856.

    Args:
        source: records with context_id, question and answers. answers is a list of objects with a text, or an object
            with a list of texts.
        contexts: records with context_id and context.

    Returns:
        A task with the metric "f1".

    Raises:
        CorpusError: a file cannot be read, a field is missing, or a question's context is missing.
    """
    paragraphs: dict[tuple[str, str], str] = {}
    for language, record, where in _read_records(contexts):
        (paragraph,) = _string_fields(record, where, "context")
        paragraphs[language, str(record.get("context_id"))] = paragraph
    items: dict[str, list[Item]] = {}
    for language, record, where in _read_records(source):
        (question,) = _string_fields(record, where, "question")
        context = paragraphs.get((language, str(record.get("context_id"))))
        texts = _answer_texts(record.get("answers"))
        if context is None or not texts:
            raise CorpusError(f"{where} needs answers with texts, and a context_id that the contexts have")
        items.setdefault(language, []).append(Item(f"{context}\n\nQ: {question}\nA:", f" {texts[0]}", references=texts))
    return Task("XQuAD", items, "f1", stop=("\n",), max_new_tokens=48)


def xcopa(source: Source, split: str | None = "test") -> Task:
    """XCOPA: choose which of two sentences is the cause or the effect of another, by log-likelihood.

    The published records are used as they are. In Thai, and in much of Turkish, they label causes as effects.

    Source: arXiv 2005.00333.

    Args:
        source: records with premise, question ("cause" or "effect"), choice1, choice2, label (0 or 1), and optionally
            split.
        split: the split to use; records of other splits are skipped. None: all records are used.

    Returns:
        A task with the metric "accuracy".

    Raises:
        CorpusError: a file cannot be read, a field is missing or has another value, a language is unknown, or no record
            has the split.
    """
    items: dict[str, list[Item]] = {}
    for language, record, where in _read_records(source):
        if split is not None and record.get("split", split) != split:
            continue
        premise, question, *sentences = _string_fields(record, where, "premise", "question", "choice1", "choice2")
        label = record.get("label")
        if (
            not isinstance(label, int)
            or label not in (0, 1)
            or question not in ("cause", "effect")
            or language not in CONNECTORS
        ):
            known = ", ".join(CONNECTORS)
            raise CorpusError(
                f"{where} needs a label 0 or 1, the question cause or effect, and one of the languages {known}"
            )
        connector = CONNECTORS[language][question == "effect"]
        space = "" if UNSPACED.match(connector) else " "
        choices = tuple(f"{space}{_lower_case(sentence[:1], language)}{sentence[1:]}" for sentence in sentences)
        prompt = f"{premise.rstrip('.。 ')}{space}{connector}"
        items.setdefault(language, []).append(Item(prompt, choices[label], choices))
    if not items:
        raise CorpusError(f"{source} has no record of split {split!r}: give another split, or None")
    return Task("XCOPA", items, "accuracy")


def xcsqa(source: Source) -> Task:
    """X-CSQA: common-sense questions with five words to choose from, by log-likelihood.

    Source: arXiv 2106.06937.

    Args:
        source: records with answerKey and question, an object with stem and choices (objects with label and text).

    Returns:
        A task with the metric "accuracy".

    Raises:
        CorpusError: a file cannot be read, a field is missing, or answerKey is none of the labels.
    """
    items: dict[str, list[Item]] = {}
    for language, record, where in _read_records(source):
        question = record.get("question")
        if not isinstance(question, dict) or not isinstance(question.get("choices"), list):
            raise CorpusError(f"{where} needs a question with stem and choices")
        (stem,) = _string_fields(question, where, "stem")
        answers: dict[str, str] = {}
        for choice in question["choices"]:
            label, text = _string_fields(choice, where, "label", "text")
            answers[label] = f" {text}"
        key = str(record.get("answerKey"))
        if key not in answers:
            raise CorpusError(f"{where}: answerKey is none of the labels {', '.join(answers)}")
        items.setdefault(language, []).append(Item(f"Q: {stem}\nA:", answers[key], tuple(answers.values())))
    return Task("X-CSQA", items, "accuracy")


def xlsum(source: Source) -> Task:
    """XLSum: summaries of news articles, evaluated by ROUGE-L.

    Source: arXiv 2106.13822.

    Args:
        source: records with text and summary.

    Returns:
        A task with the metric "rouge-l".

    Raises:
        CorpusError: a file cannot be read, or a field is missing.
    """
    items: dict[str, list[Item]] = {}
    for language, record, where in _read_records(source):
        text, summary = _string_fields(record, where, "text", "summary")
        items.setdefault(language, []).append(Item(f"{text}\n\nTL;DR:", f" {summary}", references=(summary,)))
    return Task("XLSum", items, "rouge-l", stop=("\n",), max_new_tokens=96)


def _read_records(source: Source) -> Iterator[tuple[str, JsonObject, str]]:
    """Yields the language of every record, the record, and its file and line for messages."""
    if isinstance(source, Mapping):
        for language, path in source.items():
            for record, where in read_json_records(Path(path)):
                yield language, _require_object(record, where), where
        return
    for record, where in read_json_records(Path(source)):
        fields = _require_object(record, where)
        yield _string_fields(fields, where, "lang")[0], fields, where


def _require_object(record: object, where: str) -> JsonObject:
    """Returns the record. Raises CorpusError if it is no JSON object."""
    if not isinstance(record, dict):
        raise CorpusError(f"{where} must be a JSON object")
    return record


def _string_fields(record: object, where: str, *names: str) -> tuple[str, ...]:
    """Returns the values of fields. Raises CorpusError if one of them is not a string."""
    fields = _require_object(record, where)
    values: list[str] = []
    for name in names:
        value = fields.get(name)
        if not isinstance(value, str):
            raise CorpusError(f"{where} needs a string {name!r}")
        values.append(value)
    return tuple(values)


def _answer_texts(answers: object) -> tuple[str, ...]:
    """Returns the texts of [{"text": ...}, ...] or of {"text": [...]}, or () for anything else."""
    texts: object = None
    if isinstance(answers, dict):
        texts = answers.get("text")
    elif isinstance(answers, list):
        texts = [answer.get("text") for answer in answers if isinstance(answer, dict)]
    return tuple(texts) if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else ()


def _lower_case(letter: str, language: str) -> str:
    """Returns a letter in lower case. Turkish has an i with and an i without a dot."""
    return {"İ": "i", "I": "ı"}.get(letter, letter.lower()) if language == "tr" else letter.lower()


def _leading_label(text: str) -> str:
    """Returns the text up to its first colon, the colon, and the spaces after it, or "" without a colon."""
    label = re.match(r"[^:：]*[:：]\s*", text)
    return label.group() if label else ""
