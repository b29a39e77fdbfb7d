"""How answers are scored; more is better."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

# Words that an answer may have or lack, by language, as SQuAD's and MLQA's evaluations leave them out.
ARTICLES = {
    "en": "a an the",
    "es": "un una unos unas el la los las",
    "de": "ein eine einen einem eines einer der die das den dem des",
    "fr": "un une des le la les",
    "hi": "",
    "vi": "của là cái chiếc những",
}
# Scripts that put no space between words: a character is a word.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
NUMBER = re.compile(r"[-−]?\d[\d,.\u066b\u066c\u00a0\u202f]*")


def exact_match(prediction: str, reference: str, language: str) -> float:
    """1 where both have the same words, without punctuation, case and articles."""
    return float(words(prediction, language) == words(reference, language))


def f1(prediction: str, reference: str, language: str) -> float:
    """2 P R / (P + R) of the words that both have, P their share of the prediction's, R of the reference's."""
    ours, truth = words(prediction, language), words(reference, language)
    common = sum((Counter(ours) & Counter(truth)).values())
    return _f1(common, len(ours), len(truth))


def rouge_l(prediction: str, reference: str, language: str) -> float:
    """F1 of the longest common subsequence of words (arXiv cs/0409058's ROUGE-L with P and R weighing the same)."""
    ours, truth = words(prediction, language, articles=True), words(reference, language, articles=True)
    return _f1(_longest_common_subsequence(ours, truth), len(ours), len(truth))


def same_number(prediction: str, reference: str, language: str) -> float:
    """1 where the last number of the prediction is the reference's; digits of any script, separators left out."""
    ours, truth = number(prediction), number(reference)
    return float(ours is not None and ours == truth)


# {name: score of a generated answer against one reference}; an item's score is that of its best reference.
GENERATED: dict[str, Callable[[str, str, str], float]] = {
    "exact match": exact_match,
    "f1": f1,
    "rouge-l": rouge_l,
    "number": same_number,
}
# By log-likelihood: 1 where the most likely choice is the gold one, 1 where its tokens are the most likely in the mean, and the
# mean log p of the gold answer's tokens (in nats, below 0).
CHOSEN = ("accuracy", "normalised accuracy")
METRICS = (*CHOSEN, "likelihood", *GENERATED)


def best(metric: str, prediction: str, references: Sequence[str], language: str) -> float:
    return max(GENERATED[metric](prediction, reference, language) for reference in references)


def words(text: str, language: str, articles: bool = False) -> list[str]:
    """Words of a text without punctuation and case, and without articles unless asked for."""
    plain = "".join(" " if unicodedata.category(c)[0] in "PS" else c for c in text.lower())
    left_out = () if articles else ARTICLES.get(language, "").split()
    return [word for word in UNSPACED.sub(r" \g<0> ", plain).split() if word not in left_out]


def number(text: str) -> float | None:
    """The last number in a text. A separator before exactly three digits parts thousands."""
    found = NUMBER.findall(text)
    if not found:
        return None
    digits = re.sub(r"[\u00a0\u202f\u066c]", "", found[-1]).replace("−", "-").replace("\u066b", ".").rstrip(".,")
    digits = re.sub(r"[,.](?=\d{3}(?:[,.]|$))", "", digits)
    try:
        return float(digits.replace(",", "."))
    except ValueError:  # 1.2.3 is no number
        return None


def _f1(common: int, ours: int, truth: int) -> float:
    if not ours or not truth:
        return float(ours == truth)
    return 2 * common / (ours + truth)


def _longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    lengths = [0] * (len(b) + 1)  # of a's words so far with each beginning of b
    for word in a:
        diagonal = 0
        for place, other in enumerate(b, 1):
            diagonal, lengths[place] = (
                lengths[place],
                diagonal + 1 if word == other else max(lengths[place], lengths[place - 1]),
            )
    return lengths[-1]
