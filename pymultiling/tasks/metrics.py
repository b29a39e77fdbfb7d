"""Metrics of generated answers and of log-likelihoods; a higher value is better."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

ChoiceMetric: TypeAlias = Literal["accuracy", "normalised accuracy"]
GenerationMetric: TypeAlias = Literal["exact match", "f1", "rouge-l", "number"]
Metric: TypeAlias = ChoiceMetric | Literal["likelihood"] | GenerationMetric

# Articles by language, which are removed before words are compared, as in the evaluations of SQuAD and MLQA.
ARTICLES = {
    "en": "a an the",
    "es": "un una unos unas el la los las",
    "de": "ein eine einen einem eines einer der die das den dem des",
    "fr": "un une des le la les",
    "vi": "của là cái chiếc những",
}
ARABIC_ARTICLE = "ال"  # a prefix of its word
# Characters of scripts without spaces between words: each character counts as a word.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
SPACES = " \u00a0\u202f\u066c"  # separators of thousands; U+066C is the Arabic one
# A number, with an optional sign where no digit precedes it; SPACES may separate groups of three digits.
NUMBER = re.compile(
    rf"(?<!\d)[-−]?(?:\d{{1,3}}(?:[{SPACES}]\d{{3}})+(?!\d)|\d[\d,.\u066b\u066c]*)(?:[.,\u066b]\d+)?|\d+"
)


def exact_match(prediction: str, reference: str, language: str) -> float:
    """Returns 1 if both texts have the same words, without punctuation, case and articles; else 0."""
    return float(split_words(prediction, language) == split_words(reference, language))


def f1(prediction: str, reference: str, language: str) -> float:
    """Returns the F1 of the words that both texts have.

    F1 = 2 P R / (P + R),   P = common words / words of the prediction,   R = common words / words of the reference
    """
    predicted, expected = split_words(prediction, language), split_words(reference, language)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return _f1(common, len(predicted), len(expected))


def rouge_l(prediction: str, reference: str, language: str) -> float:
    """Returns ROUGE-L: the F1 of the longest common subsequence of words, weighing precision and recall equally.

    Source: arXiv cs/0409058.
    """
    predicted = split_words(prediction, language, articles=True)
    expected = split_words(reference, language, articles=True)
    return _f1(_common_subsequence_length(predicted, expected), len(predicted), len(expected))


def same_number(prediction: str, reference: str, language: str) -> float:
    """Returns 1 if the last number of the prediction equals the last number of the reference; else 0.

    Digits may be of any script. Separators of thousands are ignored.
    """
    predicted, expected = last_number(prediction), last_number(reference)
    return float(predicted is not None and predicted == expected)


# {name: metric of a generated answer and one reference}. The value of an item is that of its best reference.
GENERATION_METRICS: dict[GenerationMetric, Callable[[str, str, str], float]] = {
    "exact match": exact_match,
    "f1": f1,
    "rouge-l": rouge_l,
    "number": same_number,
}
# "accuracy": 1 if the gold choice has the highest log-likelihood. "normalised accuracy": 1 if it has the highest mean
# log-likelihood of its tokens. "likelihood": the mean log-likelihood of the gold answer's tokens, in nats, below 0.
CHOICE_METRICS: tuple[ChoiceMetric, ...] = get_args(ChoiceMetric)
METRICS: tuple[Metric, ...] = (*CHOICE_METRICS, "likelihood", *GENERATION_METRICS)


def best_value(metric: GenerationMetric, prediction: str, references: Sequence[str], language: str) -> float:
    """Returns the metric value of a generated answer for its best reference."""
    return max(GENERATION_METRICS[metric](prediction, reference, language) for reference in references)


def split_words(text: str, language: str, articles: bool = False) -> list[str]:
    """Splits a text into words in lower case, without punctuation and symbols.

    In scripts without spaces between words each character, with its marks, is a word. `articles`: whether articles are
    kept.
    """
    words: list[str] = []
    inside = False
    for c in text.lower():
        kind = unicodedata.category(c)[0]
        if kind in "PS":  # U.S. becomes US
            continue
        if kind == "M" and words:  # a mark belongs to the letter before it
            words[-1] += c
        elif c.isspace():
            inside = False
        elif inside and not UNSPACED.match(c):
            words[-1] += c
        else:
            words.append(c)
            inside = not UNSPACED.match(c)
    if articles:
        return words
    if language == "ar":
        words = [word.removeprefix(ARABIC_ARTICLE) for word in words]
    return [word for word in words if word not in ARTICLES.get(language, "").split()]


def last_number(text: str) -> float | None:
    """Returns the last number in a text, or None if there is no number. Digits may be of any script.

    A space, a comma or a point separates groups of three digits, or of two and three digits as in India. The last part
    is a fraction if it is not such a group, or if it follows a zero: 1.234 is 1234, but 0.234 is less than one.
    """
    numbers = NUMBER.findall("".join(str(unicodedata.decimal(c, c)) for c in text))
    if not numbers:
        return None
    digits = re.sub(f"[{SPACES}]", "", numbers[-1]).replace("−", "-").replace("\u066b", ".").rstrip(".,")
    if re.fullmatch(r"-?[1-9]\d{0,2}(?:,\d{2,3})*,\d{3}(?:\.\d+)?", digits):
        digits = digits.replace(",", "")
    elif re.fullmatch(r"-?[1-9]\d{0,2}(?:\.\d{3})+(?:,\d+)?", digits):
        digits = digits.replace(".", "")
    try:
        return float(digits.replace(",", "."))
    except ValueError:  # 1.2.3 is not a number
        return None


def _f1(common: int, predicted: int, expected: int) -> float:
    """Returns F1 from the numbers of common, predicted and expected words. Two empty texts have 1."""
    if not predicted or not expected:
        return float(predicted == expected)
    return 2 * common / (predicted + expected)


def _common_subsequence_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence."""
    lengths = [0] * (len(b) + 1)  # of the words of a so far with every prefix of b
    for word in a:
        diagonal = 0
        for index, word_of_b in enumerate(b, 1):
            longest = diagonal + 1 if word == word_of_b else max(lengths[index], lengths[index - 1])
            diagonal, lengths[index] = lengths[index], longest
    return lengths[-1]
