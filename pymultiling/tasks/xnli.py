"""XNLI: whether a premise entails a hypothesis, contradicts it, or neither, by log-likelihood."""

from __future__ import annotations

from typing import NamedTuple

from pymultiling.errors import CorpusError
from pymultiling.tasks.items import Item, Task
from pymultiling.tasks.published_fields import Xnli, XnliOfHub
from pymultiling.tasks.task_files import JsonObject, Source, check_fields, read_records

LABELS = ("entailment", "neutral", "contradiction")


class Words(NamedTuple):
    """The words between a premise and a hypothesis in one language.

    Attributes:
        question: what follows the premise.
        answers: what follows the question where LABELS hold, with the space before it.
        comma: what follows an answer.
    """

    question: str
    answers: tuple[str, str, str]
    comma: str = ", "


# {language: words}. The wording is this package's.
WORDS = {
    "ar": Words("، أليس كذلك؟", (" نعم", " أيضًا", " لا"), "، "),
    "bg": Words(", нали?", (" Да", " Също", " Не")),
    "de": Words(", richtig?", (" Ja", " Auch", " Nein")),
    "el": Words(", σωστά;", (" Ναι", " Επίσης", " Όχι")),
    "en": Words(", right?", (" Yes", " Also", " No")),
    "es": Words(", ¿verdad?", (" Sí", " También", " No")),
    "fr": Words(", n'est-ce pas ?", (" Oui", " Aussi", " Non")),
    "hi": Words(", है ना?", (" हाँ", " साथ ही", " नहीं")),
    "ru": Words(", верно?", (" Да", " Также", " Нет")),
    "sw": Words(", sivyo?", (" Ndiyo", " Pia", " Hapana")),
    "th": Words(" ใช่ไหม", (" ใช่", " นอกจากนี้", " ไม่ใช่"), " "),
    "tr": Words(", değil mi?", (" Evet", " Ayrıca", " Hayır")),
    "ur": Words("، ہے نا؟", (" ہاں", " نیز", " نہیں"), "، "),
    "vi": Words(", đúng không?", (" Đúng", " Ngoài ra", " Không")),
    "zh": Words("，对吗？", ("对", "而且", "不"), "，"),
}


def xnli(source: Source) -> Task:
    """XNLI: choose among entailment, neutral and contradiction, by log-likelihood.

    A choice is a text in the form of XGLM (arXiv 2112.10668), "PREMISE, right? Yes, HYPOTHESIS", with "Also" for
    neutral and "No" for contradiction. The words are of the record's language.

    Source: arXiv 1809.05053.

    Args:
        source: records in the layout of XNLI 1.0 (sentence1, sentence2 and gold_label, a word) or of the Hugging Face
            Hub (premise, hypothesis and label, 0 to 2).

    Returns:
        A task with the metric "accuracy".

    Raises:
        CorpusError: a file cannot be read, a field is missing or has another value, or a language is unknown or is
            another one than that of a record.
    """
    items: dict[str, list[Item]] = {}
    for language, record, where in read_records(source):
        own_language = record.get("language", language)
        if own_language != language:
            raise CorpusError(
                f"{where} is in {own_language!r}, and was given as {language!r}: give the file by itself, which has "
                "the language of every record"
            )
        premise, hypothesis, label = _fields(record, where)
        if language not in WORDS:
            raise CorpusError(f"{where} needs one of the languages {', '.join(WORDS)}, got {language!r}")
        words = WORDS[language]
        choices = tuple(f"{answer}{words.comma}{hypothesis}" for answer in words.answers)
        prompt = f"{premise.rstrip('.。।۔ ')}{words.question}"
        items.setdefault(language, []).append(Item(prompt, choices[label], choices))
    return Task("XNLI", items, "accuracy")


def _fields(record: JsonObject, where: str) -> tuple[str, str, int]:
    """Returns the premise, the hypothesis and the index of the label in LABELS."""
    if "premise" in record:
        of_hub = check_fields(XnliOfHub, record, where, "XNLI")
        return of_hub.premise, of_hub.hypothesis, of_hub.label
    pair = check_fields(Xnli, record, where, "XNLI")
    return pair.sentence1, pair.sentence2, LABELS.index(pair.gold_label)
