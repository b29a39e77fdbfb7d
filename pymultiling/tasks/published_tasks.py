"""Tasks from local files: one JSON object a line (.jsonl, also .gz), in the fields of the published data sets.

Every function takes a path whose rows have a field "lang", or {language: path}.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pymultiling.data.rows import read_json_records
from pymultiling.errors import CorpusError
from pymultiling.tasks.items import Item, Task
from pymultiling.tasks.metrics import UNSPACED

Source = str | Path | Mapping[str, str | Path]

# What joins a premise and its cause or effect; the choice follows in lower case.
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
    """MGSM (arXiv 2210.03057): grade-school mathematics with worked examples; the answer's last number counts.

    Args:
        source: rows with question and answer.
        exemplars: rows with question and answer (the chain of thought), each with its word for it before a colon, which is put
            before the questions too; the answers end in the number.
        shots: how many of a language's exemplars come before a question.
    """
    worked: dict[str, list[tuple[str, str]]] = {}
    for language, row, where in _rows(exemplars):
        worked.setdefault(language, []).append(_texts(row, where, "question", "answer"))
    items: dict[str, list[Item]] = {}
    for language, row, where in _rows(source):
        question, answer = _texts(row, where, "question", "answer")
        if len(worked.get(language, ())) < max(shots, 1):
            raise CorpusError(f"{where}: {shots} exemplars in {language!r} were looked for, there are fewer")
        examples = worked[language][:shots]
        asks, answers = (_label(text) for text in worked[language][0])
        shown = "".join(f"{one}\n{two}\n\n" for one, two in examples)
        space = answers[len(answers.rstrip()) :]
        item = Item(f"{shown}{asks}{question}\n{answers.rstrip()}", space + answer, references=(answer,))
        items.setdefault(language, []).append(item)
    return Task("MGSM", items, "number", stop=("\n\n",), max_new_tokens=320)


def xquad(source: Source, contexts: Source) -> Task:
    """XQuAD (arXiv 1910.11856): answers from a paragraph, by F1 of words ("exact match" as another metric).

    Args:
        source: rows with context_id, question, and answers, a list of objects with a text, or an object with a list of texts.
        contexts: rows with context_id and context.
    """
    paragraphs = {}
    for language, row, where in _rows(contexts):
        paragraphs[language, str(row.get("context_id"))] = _texts(row, where, "context")[0]
    items: dict[str, list[Item]] = {}
    for language, row, where in _rows(source):
        (question,) = _texts(row, where, "question")
        paragraph = paragraphs.get((language, str(row.get("context_id"))))
        texts = _answers(row.get("answers"))
        if paragraph is None or not texts:
            raise CorpusError(f"{where}: looked for answers with texts, and for the paragraph of its context_id")
        items.setdefault(language, []).append(
            Item(f"{paragraph}\n\nQ: {question}\nA:", f" {texts[0]}", references=texts)
        )
    return Task("XQuAD", items, "f1", stop=("\n",), max_new_tokens=48)


def xcopa(source: Source, split: str | None = "test") -> Task:
    """XCOPA (arXiv 2005.00333): which of two sentences is the cause or the effect of another, by likelihood.

    The published rows are taken as they are; in Thai, and in much of Turkish, they call causes effects too.

    Args:
        source: rows with premise, question ("cause" or "effect"), choice1, choice2, label (0 or 1), and split.
        split: rows of another one are left out; None: none is.
    """
    items: dict[str, list[Item]] = {}
    for language, row, where in _rows(source):
        if split is not None and row.get("split", split) != split:
            continue
        premise, question, *choices = _texts(row, where, "premise", "question", "choice1", "choice2")
        if row.get("label") not in (0, 1) or question not in ("cause", "effect") or language not in CONNECTORS:
            known = ", ".join(CONNECTORS)
            raise CorpusError(f"{where}: looked for a label 0 or 1, a question cause or effect, a language of {known}")
        connector = CONNECTORS[language][question == "effect"]
        space = "" if UNSPACED.match(connector) else " "
        choices = tuple(f"{space}{_lower(choice[:1], language)}{choice[1:]}" for choice in choices)
        prompt = f"{premise.rstrip('.。 ')}{space}{connector}"
        items.setdefault(language, []).append(Item(prompt, choices[row["label"]], choices))
    if not items:
        raise CorpusError(f"{source}: no row is of split {split!r}")
    return Task("XCOPA", items, "accuracy")


def xcsqa(source: Source) -> Task:
    """X-CSQA (arXiv 2106.06937): common sense, one of five words, by likelihood.

    Args:
        source: rows with question, an object with stem and choices (objects with label and text), and answerKey.
    """
    items: dict[str, list[Item]] = {}
    for language, row, where in _rows(source):
        question = row.get("question")
        if not isinstance(question, dict) or not isinstance(question.get("choices"), list):
            raise CorpusError(f"{where}: looked for a question with stem and choices")
        (stem,) = _texts(question, where, "stem")
        choices = dict(_texts(one, where, "label", "text") for one in question["choices"])
        if str(row.get("answerKey")) not in choices:
            raise CorpusError(f"{where}: answerKey is none of the labels {', '.join(choices)}")
        answers = {label: f" {text}" for label, text in choices.items()}
        items.setdefault(language, []).append(
            Item(f"Q: {stem}\nA:", answers[str(row["answerKey"])], tuple(answers.values()))
        )
    return Task("X-CSQA", items, "accuracy")


def xlsum(source: Source) -> Task:
    """XLSum (arXiv 2106.13822): a summary of a news article, by ROUGE-L.

    Args:
        source: rows with text and summary.
    """
    items: dict[str, list[Item]] = {}
    for language, row, where in _rows(source):
        text, summary = _texts(row, where, "text", "summary")
        items.setdefault(language, []).append(Item(f"{text}\n\nTL;DR:", f" {summary}", references=(summary,)))
    return Task("XLSum", items, "rouge-l", stop=("\n",), max_new_tokens=96)


def _rows(source: Source) -> Iterator[tuple[str, dict, str]]:
    """Language, row and place of every row."""
    if isinstance(source, Mapping):
        for language, path in source.items():
            for row, where in read_json_records(Path(path)):
                _texts(row, where)
                yield language, row, where
        return
    for row, where in read_json_records(Path(source)):
        yield _texts(row, where, "lang")[0], row, where


def _texts(row: dict, where: str, *names: str) -> tuple[str, ...]:
    if not isinstance(row, dict):
        raise CorpusError(f"{where}: looked for an object")
    for name in names:
        if not isinstance(row.get(name), str):
            raise CorpusError(f"{where}: looked for a string {name!r}")
    return tuple(row[name] for name in names)


def _answers(given) -> tuple[str, ...]:
    """Texts of [{"text": ...}, ...] or of {"text": [...]}; none where it is something else."""
    if isinstance(given, dict):
        texts = given.get("text")
    else:
        texts = [one.get("text") for one in given if isinstance(one, dict)] if isinstance(given, list) else None
    return tuple(texts) if isinstance(texts, list) and all(isinstance(one, str) for one in texts) else ()


def _lower(letter: str, language: str) -> str:
    return {"İ": "i", "I": "ı"}.get(letter, letter.lower()) if language == "tr" else letter.lower()


def _label(text: str) -> str:
    """What stands before the first colon, the colon, and a space if there is one."""
    found = re.match(r"[^:：]*[:：]\s*", text)
    return found.group() if found else ""
