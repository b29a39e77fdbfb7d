"""Tasks from files with the fields of the published data sets.

A file has one JSON object per line (.jsonl), or is a table with the names of its columns in the first line (.tsv), or
.parquet. The first two may be compressed (.gz, .zst). Every function takes the path or URL of a file whose records have
a field "lang", or {language: path or URL}. A `TextFile` gives another encoding than UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pymultiling.errors import CorpusError
from pymultiling.tasks.items import Item, Task
from pymultiling.tasks.metrics import UNSPACED
from pymultiling.tasks.published_fields import Mgsm, Msvamp, Xcopa, Xcsqa, Xlsum, XquadContext, XquadQuestion
from pymultiling.tasks.task_files import JsonObject, Source, check_fields, read_records

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
    records = (
        (language, check_fields(Mgsm, record, where, "MGSM"), where) for language, record, where in read_records(source)
    )
    asked = ((language, fields.question, fields.answer, where) for language, fields, where in records)
    return _with_exemplars("MGSM", asked, exemplars, shots)


def msvamp(source: Source, exemplars: Source, shots: int = 8) -> Task:
    """MSVAMP: arithmetic word problems, with the worked examples of MGSM; only the last number of an answer counts.

    Source: arXiv 2310.20246.

    Args:
        source: records with m_query, the question, and response, the number, or with question and answer. The ".0" of
            whole numbers is left out.
        exemplars: as in `mgsm`.
        shots: as in `mgsm`.

    Returns:
        A task with the metric "number".

    Raises:
        CorpusError: as in `mgsm`.
    """
    records = ((language, *_msvamp_fields(record, where), where) for language, record, where in read_records(source))
    asked = (
        (language, question.strip(), answer.removesuffix(".0"), where) for language, question, answer, where in records
    )
    return _with_exemplars("MSVAMP", asked, exemplars, shots)


def _msvamp_fields(record: JsonObject, where: str) -> tuple[str, str]:
    """Returns the question and the answer of a record in one of the two layouts of `msvamp`."""
    if "question" in record:
        asked = check_fields(Mgsm, record, where, "MSVAMP")
        return asked.question, asked.answer
    published = check_fields(Msvamp, record, where, "MSVAMP")
    return published.m_query, published.response


def _with_exemplars(name: str, asked: Iterable[tuple[str, str, str, str]], exemplars: Source, shots: int) -> Task:
    """Returns a task of mathematics with worked examples before each question.

    Args:
        name: the name of the task.
        asked: language, question, answer and location for messages of each question.
        exemplars: as in `mgsm`.
        shots: as in `mgsm`.
    """
    exemplars_by_language: dict[str, list[tuple[str, str]]] = {}
    for language, record, where in read_records(exemplars):
        exemplar = check_fields(Mgsm, record, where, "MGSM")
        exemplars_by_language.setdefault(language, []).append((exemplar.question, exemplar.answer))
    items: dict[str, list[Item]] = {}
    for language, question, answer, where in asked:
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
    return Task(name, items, "number", stop=("\n\n",), max_new_tokens=320)


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
    for language, record, where in read_records(contexts):
        paragraph = check_fields(XquadContext, record, where, "XQuAD's contexts")
        paragraphs[language, str(paragraph.context_id)] = paragraph.context
    items: dict[str, list[Item]] = {}
    for language, record, where in read_records(source):
        asked = check_fields(XquadQuestion, record, where, "XQuAD")
        context = paragraphs.get((language, str(asked.context_id)))
        texts = _answer_texts(record.get("answers"))
        if context is None or not texts:
            raise CorpusError(f"{where} needs answers with texts, and a context_id that the contexts have")
        items.setdefault(language, []).append(
            Item(f"{context}\n\nQ: {asked.question}\nA:", f" {texts[0]}", references=texts)
        )
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
    for language, record, where in read_records(source):
        if split is not None and record.get("split", split) != split:
            continue
        fields = check_fields(Xcopa, record, where, "XCOPA")
        if language not in CONNECTORS:
            raise CorpusError(f"{where} needs one of the languages {', '.join(CONNECTORS)}, got {language!r}")
        connector = CONNECTORS[language][fields.question == "effect"]
        space = "" if UNSPACED.match(connector) else " "
        choices = tuple(
            f"{space}{_lower_case(sentence[:1], language)}{sentence[1:]}"
            for sentence in (fields.choice1, fields.choice2)
        )
        prompt = f"{fields.premise.rstrip('.。 ')}{space}{connector}"
        items.setdefault(language, []).append(Item(prompt, choices[fields.label], choices))
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
    for language, record, where in read_records(source):
        asked = check_fields(Xcsqa, record, where, "X-CSQA")
        choices = asked.question.choices
        answers = {choice.label: f" {choice.text}" for choice in choices}
        if len(answers) < len(choices):
            raise CorpusError(f"{where}: two choices have the same label; keep one of them")
        if asked.answer_key not in answers:
            raise CorpusError(f"{where}: answerKey is none of the labels {', '.join(answers)}")
        prompt = f"Q: {asked.question.stem}\nA:"
        items.setdefault(language, []).append(Item(prompt, answers[asked.answer_key], tuple(answers.values())))
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
    for language, record, where in read_records(source):
        article = check_fields(Xlsum, record, where, "XLSum")
        answer = f" {article.summary}"
        items.setdefault(language, []).append(Item(f"{article.text}\n\nTL;DR:", answer, references=(article.summary,)))
    return Task("XLSum", items, "rouge-l", stop=("\n",), max_new_tokens=96)


def _answer_texts(answers: object) -> tuple[str, ...]:
    """Returns the texts of [{"text": ...}, ...] or of {"text": [...]}, or () for anything else."""
    texts: object = None
    if isinstance(answers, dict):
        texts = answers.get("text")
    elif isinstance(answers, list):
        texts = [answer.get("text") if isinstance(answer, dict) else None for answer in answers]
    return tuple(texts) if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else ()


def _lower_case(letter: str, language: str) -> str:
    """Returns a letter in lower case. Turkish has an i with and an i without a dot."""
    return {"İ": "i", "I": "ı"}.get(letter, letter.lower()) if language == "tr" else letter.lower()


def _leading_label(text: str) -> str:
    """Returns the text up to its first colon, the colon, and the spaces after it, or "" without a colon."""
    label = re.match(r"[^:：]*[:：]\s*", text)
    return label.group() if label else ""
