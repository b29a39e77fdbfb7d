"""Metrics of generated answers against values computed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymultiling.tasks.metrics import exact_match, f1, last_number, rouge_l, same_number, split_words


@pytest.mark.parametrize(
    "text, language, expected",
    [
        ("The  308, points!", "en", ["308", "points"]),
        ("Die Höhe (der Türme)", "de", ["höhe", "türme"]),
        ("北京市。", "zh", ["北", "京", "市"]),
        ("ใน2010", "th", ["ใ", "น", "2010"]),
        ("l'eau", "fr", ["leau"]),
        ("the", "tr", ["the"]),
    ],
)
def test_words_are_split_without_punctuation_and_articles(text, language, expected):
    assert split_words(text, language) == expected


def test_exact_match_and_f1_compare_words_without_articles():
    assert exact_match(" The Broncos.", "broncos", "en") == 1
    assert exact_match("Broncos team", "broncos", "en") == 0
    assert f1("the Denver Broncos team", "Denver Broncos", "en") == pytest.approx(2 * 2 / (3 + 2))
    assert f1("b b b", "b b c", "de") == pytest.approx(2 * 2 / 6)
    assert f1("", "x", "en") == 0 and f1("", "the", "en") == 1


def longest_common_subsequence(a: list, b: list) -> int:
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return longest_common_subsequence(a[:-1], b[:-1]) + 1
    return max(longest_common_subsequence(a[:-1], b), longest_common_subsequence(a, b[:-1]))


@given(st.lists(st.sampled_from("abc"), max_size=7), st.lists(st.sampled_from("abc"), max_size=7))
def test_rouge_l_is_f1_of_the_longest_common_subsequence(a, b):
    expected = 2 * longest_common_subsequence(a, b) / (len(a) + len(b)) if a and b else float(a == b)
    assert rouge_l(" ".join(a), " ".join(b), "de") == pytest.approx(expected)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("The answer is 29.", 29),
        ("4 * 5 = 20, 9 + 20 = 29", 29),
        ("$1,234,567", 1234567),
        ("1.234 Euro", 1234),
        ("2,5", 2.5),
        ("3.14", 3.14),
        ("-7", -7),
        ("12,50 €", 12.5),
        ("১৮", 18),
        ("٣٫٥", 3.5),
        ("1\u202f234", 1234),
        ("答案是 29。", 29),
        ("18.0", 18),
        ("none", None),
        ("1.2.3", None),
    ],
)
def test_the_last_number_is_found(text, expected):
    assert last_number(text) == expected


def test_same_number_compares_last_numbers():
    assert same_number("so 3 and 1,000.", "1000", "en") == 1
    assert same_number("1000 of 3", "1000", "en") == 0
    assert same_number("many", "1000", "en") == 0


@pytest.mark.parametrize(
    "text, expected",
    [
        ("La réponse est 80 000.", 80000),
        ("23 786.", 23786),
        ("3 000 000,5", 3000000.5),
        ("12 5", 5),
        ("1,00,000", 100000),
        ("১,০০,০০০", 100000),
        ("0.125", 0.125),
        ("0,125", 0.125),
        ("10-15", 15),
        ("12345", 12345),
        ("1234,56", 1234.56),
        ("1,234.56", 1234.56),
        ("1.234,56", 1234.56),
        ("10000", 10000),
        ("3 4567", 4567),
    ],
)
def test_groups_of_digits_make_one_number(text, expected):
    assert last_number(text) == expected


def test_punctuation_and_articles_do_not_count_and_marks_stay_with_their_letters():
    assert exact_match("US", "U.S.", "en") == exact_match("10000", "10,000", "en") == 1
    assert exact_match("البيت", "بيت", "ar") == 1
    assert split_words("สี่", "th") == ["สี่"] and split_words("นาม", "th") == ["น", "า", "ม"]
    assert split_words("abc中d", "zh") == ["abc", "中", "d"]
