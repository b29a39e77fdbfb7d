"""Language codes and their English names."""

import pytest

import pymultiling as pml
from pymultiling.data import languages
from pymultiling.data.languages import find_language, language_codes, language_name, match_language


@pytest.mark.parametrize(
    "code, name",
    [
        ("de", "German"),
        ("deu", "German"),
        ("deu_Latn", "German"),
        ("de~1", "German"),
        ("de~fr", "German"),
        ("pt-BR", "Portuguese"),
        ("en_XX", "English"),
        ("zho_Hans", "Chinese"),
        ("Zho_Hans", "Chinese"),
        ("zh", "Chinese"),
        ("zho_Hant", "Traditional Chinese"),
        ("zh-Hant-TW", "Traditional Chinese"),
        ("yue_Hant", "Cantonese"),
        ("arb_Arab", "Arabic"),
        ("pes_Arab", "Persian"),
        ("swh_Latn", "Swahili"),
        ("German", "German"),
        ("norwegian bokmål", "Norwegian Bokmål"),
    ],
)
def test_codes_with_and_without_script_have_a_name(code, name):
    assert language_name(code) == name


def test_the_callers_names_take_precedence():
    assert language_name("de~1", {"de": "Deutsch"}) == "Deutsch"
    assert language_name("xx", {"xx": "Elvish"}) == "Elvish"
    with pytest.raises(
        ValueError, match=r"language of 'qqq_Latn~1' is unknown: give its English name in names, {'qqq_Latn': ...}"
    ):
        language_name("qqq_Latn~1", {"de": "Deutsch"})


def test_every_language_of_common_data_sets_has_a_name():
    flores = (
        "swe nld bjn jav tgl ind rus ces dan eng ukr tel srp fra tha ban zho deu sun hin pol slv yue sin spa "
        "urd gle swh ben jpn min arb tur vie ell kor por ita pes bul ron cat eus epo kin lug tam est fin hun "
        "heb zsm"
    )
    two_letters = (
        "ar bg bn ca de el en eo es et eu fa fr hi id it ja ko lg nl pl pt ro ru rw sv sw ta th tr uk ur vi zh"
    )
    names = [language_name(f"{code}_Latn") for code in flores.split()]
    assert len(set(names)) == len(flores.split()) == 52
    assert len({language_name(code) for code in two_letters.split()}) == 34


def test_language_codes_ignores_other_names():
    names = ["fr", "pt-BR", "fra_Latn", "no", "xx", "all", "PMI-1", "specific", "random as fr", "FR", "fr"]
    assert language_codes(names) == ["fr", "pt", "fra", "no"]


def test_codes_of_two_letters_are_those_of_iso_639_1():
    table = languages._table()
    two_letters = table["iso_639_1"]
    assert len(two_letters) == 184  # 183, and bh, which was withdrawn
    assert language_codes(two_letters) == list(two_letters)
    assert all(len(code) == 3 for code in table["iso_639_3"]) and not set(table["others"]) & set(two_letters)
    assert language_codes(["jw", "ns", "sh"]) == []  # codes of models, or withdrawn
    assert [language_name(code) for code in ("jw", "ns", "sh", "bh")] == [
        "Javanese", "Northern Sotho", "Serbo-Croatian", "Bihari",
    ]  # fmt: skip
    assert all(name.strip() for part in table.values() for name in part.values())


def test_language_name_is_public_in_pmi():
    assert pml.pmi.language_name is language_name


@pytest.mark.parametrize("name", ["fr", "fra", "fra_Latn", "fr-CA", "French", "french"])
@pytest.mark.parametrize("known", ["fr", "fra_Latn", "French"])
def test_codes_and_names_of_a_language_are_one(name, known):
    assert match_language(name, ["de", known, "anything"]) == known


def test_the_same_name_comes_first_and_several_others_are_none():
    assert match_language("fr", ["fra_Latn", "fr"]) == "fr"
    assert match_language("fr", ["fra_Latn", "French"]) is None
    assert match_language("zho_Hans", ["zho_Hant"]) is None
    assert match_language("elvish", ["fr"]) is None
    assert match_language("de~fr", ["de"]) is None and match_language("de", ["de~fr"]) is None


def test_what_was_understood_is_logged(caplog):
    with caplog.at_level("INFO", "pymultiling"):
        assert find_language("French", ["fra_Latn"], "in.tsv") == "fra_Latn"
    assert caplog.messages == ["French is understood as fra_Latn of in.tsv"]
    with pytest.raises(
        pml.CorpusError, match=r"in.tsv has no language 'ge': its languages are de, fr; did you mean de\?"
    ):
        find_language("ge", ["de", "fr"], "in.tsv")


def test_a_mistyped_name_of_a_language_gets_a_suggestion():
    with pytest.raises(ValueError, match=r"the language of 'Germann' is unknown: .*; did you mean German\?"):
        language_name("Germann")
