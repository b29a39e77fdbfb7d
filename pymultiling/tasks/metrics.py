"""How answers are scored; more is better."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

# Words that an answer may have or lack, by language, as the evaluations of SQuAD and MLQA leave them out.
ARTICLES = {
    "en": "a an the",
    "es": "un una unos unas el la los las",
    "de": "ein eine einen einem eines einer der die das den dem des",
    "fr": "un une des le la les",
    "vi": "của là cái chiếc những",
}
ARABIC_ARTICLE = "ال"  # is written together with its word
# Scripts that put no space between words: a character is a word.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
SPACES = " \u00a0\u202f\u066c"  # that part thousands, U+066C being Arabic's separator
NUMBER = re.compile(
    rf"(?<!\d)[-−]?(?:\d{{1,3}}(?:[{SPACES}]\d{{3}})+(?!\d)|\d[\d,.\u066b\u066c]*)(?:[.,\u066b]\d+)?|\d+"
)


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
    found, inside = [], False
    for c in text.lower():
        kind = unicodedata.category(c)[0]
        if kind in "PS":  # U.S. is US
            continue
        if kind == "M" and found:  # a mark belongs to its letter
            found[-1] += c
        elif c.isspace():
            inside = False
        elif inside and not UNSPACED.match(c):
            found[-1] += c
        else:
            found.append(c)
            inside = not UNSPACED.match(c)
    if articles:
        return found
    if language == "ar":
        found = [word.removeprefix(ARABIC_ARTICLE) for word in found]
    return [word for word in found if word not in ARTICLES.get(language, "").split()]


def number(text: str) -> float | None:
    """The last number in a text, in the digits of any script.

    Groups of three digits, or of two and three as in India, are parted by a space, a comma or a point; what stands last and is
    no such group is a fraction, and so is what follows a zero: 1.234 is a thousand and more, 0.234 less than one.
    """
    found = NUMBER.findall("".join(str(unicodedata.decimal(c, c)) for c in text))
    if not found:
        return None
    digits = re.sub(f"[{SPACES}]", "", found[-1]).replace("−", "-").replace("\u066b", ".").rstrip(".,")
    if re.fullmatch(r"-?[1-9]\d{0,2}(?:,\d{2,3})*,\d{3}(?:\.\d+)?", digits):
        digits = digits.replace(",", "")
    elif re.fullmatch(r"-?[1-9]\d{0,2}(?:\.\d{3})+(?:,\d+)?", digits):
        digits = digits.replace(".", "")
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
