"""Parallel tasks from files and lists."""

import gzip
import json

import pytest

from pymultiling import CorpusError
from pymultiling.methods import pmi
from pymultiling.methods.pmi import ParallelItem


def write_lines(path, *records):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8", newline="\n") as file:
        file.writelines(
            (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)) + "\n" for record in records
        )
    return path


def text_fields(**texts):
    return {language: {"text": text} for language, text in texts.items()}


def test_translation_reads_the_columns_of_a_table(tmp_path):
    rows = ("id\tde\ten\tfr", '1\tEr sagt "ja.\tHe says yes.\tIl dit « oui ».', "2\t{x}\u2028\tx\t y ")
    for name in ("t.tsv", "t.tsv.gz"):
        task = pmi.translation(write_lines(tmp_path / name, *rows), target="en")
        assert task.items == [
            ParallelItem(text_fields(de='Er sagt "ja.', fr="Il dit « oui »."), ("He says yes.",)),
            ParallelItem(text_fields(de="{x}\u2028", fr=" y "), ("x",)),
        ]
    assert (task.template, task.metric, task.stop, task.labels) == ("translation", "bleu", ("\n",), ())
    assert task.only(1).items == task.items[:1] and task.only().items == task.items
    two_languages = pmi.translation(tmp_path / "t.tsv", target="de", languages=["fr", "en"])
    assert list(two_languages.items[0].texts) == ["fr", "en"] and two_languages.items[0].references == ('Er sagt "ja.',)


def test_languages_may_be_called_by_other_names_than_in_the_source():
    source = {"deu_Latn": ["eins"], "eng_Latn": ["one"], "French": ["un"]}
    task = pmi.translation(source, target="en", languages=["fr", "de"])
    assert task.items == [ParallelItem(text_fields(fr="un", de="eins"), ("one",))]
    assert list(pmi.translation(source, target="en").items[0].texts) == ["deu_Latn", "French"]  # without the target
    with pytest.raises(CorpusError, match="the target 'en' is among the inputs, English"):
        pmi.translation(source, target="en", languages=["English"])


def test_translation_takes_lists_and_files_of_lines(tmp_path):
    french = write_lines(tmp_path / "fr.txt.gz", "\ufeffun", "deux\r")
    task = pmi.translation({"de": ["eins", "zwei"], "fr": french, "en": ("one", "two")}, target="en")
    assert task.items == [
        ParallelItem(text_fields(de="eins", fr="un"), ("one",)),
        ParallelItem(text_fields(de="zwei", fr="deux"), ("two",)),
    ]


def test_columns_that_do_not_match_are_refused(tmp_path):
    texts = {"de": ["eins", "zwei"], "fr": ["un"], "en": ["one", "two"], "it": ["uno", " "]}
    for languages, message in (
        (None, "there are 'en' 2, 'de' 2, 'fr' 1, 'it' 2"),
        (["de", "es"], "the source has no language 'es': its languages are de, fr, en, it"),
        (["it"], "text 2 in 'it' is empty"),
        (["de", "de", "fr"], "languages has 'de' twice: give each language once, got de, de, fr"),
        ([], "the inputs must be one or more languages other than the target 'en'"),
        (["en"], "the inputs must be one or more languages other than the target 'en'"),
    ):
        with pytest.raises(CorpusError, match=message):
            pmi.translation(texts, target="en", languages=languages)
    pmi.translation(texts, target="en", languages=["de"])  # errors in other languages do not matter
    for rows, message in (
        (("de\ten", "eins"), "line 2: expected 2 columns as in the first line, got 1"),
        (("de\tde\ten", "1\t2\t3"), "a language is twice"),
        (("de\ten",), "there are no texts"),
        ((), "t.tsv is empty: expected a first line with the languages' codes"),
        (("",), "t.tsv is empty"),
    ):
        with pytest.raises(CorpusError, match=message):
            pmi.translation(write_lines(tmp_path / "t.tsv", *rows), target="en")
    (tmp_path / "latin.txt").write_bytes("fünf\n".encode("latin-1"))
    (tmp_path / "damaged.txt.gz").write_bytes(gzip.compress(b"a\n" * 999)[:-9])
    for name, message in (
        ("latin.txt", "save it in UTF-8"),
        ("damaged.txt.gz", "cannot be read"),
        ("none.txt", "no such file"),
    ):
        with pytest.raises(CorpusError, match=message):
            pmi.translation({"de": tmp_path / name, "en": ["five"]}, target="en")
    with pytest.raises(CorpusError, match=r"expected a .tsv"):
        pmi.translation(tmp_path / "latin.txt", target="en")


def test_math_joins_languages_by_id(tmp_path):
    rows = [
        {"lang": "en", "id": 0, "question": "1 + 1?", "answer": "2"},
        {"lang": "en", "id": 1, "question": "600 + 600?", "answer": "1,200"},
        {"lang": "de", "id": 1, "question": "600 und 600?", "answer": "1200"},
        {"lang": "de", "id": 0, "question": "1 und 1?", "answer": "2"},
    ]
    task = pmi.math(write_lines(tmp_path / "m.jsonl.gz", *rows))
    assert task.items == [
        ParallelItem({"en": {"question": "1 + 1?"}, "de": {"question": "1 und 1?"}}, ("2",)),
        ParallelItem({"en": {"question": "600 + 600?"}, "de": {"question": "600 und 600?"}}, ("1,200",)),
    ]
    assert (task.template, task.metric) == ("math", "number")
    files = {language: tmp_path / f"{language}.jsonl" for language in ("en", "de")}
    for language, path in files.items():
        write_lines(path, *({**row, "lang": None, "answer": 2} for row in rows if row["lang"] == language))
    assert [item.references for item in pmi.math(files).items] == [("2",), ("2",)]
    without_id = {field: value for field, value in rows[0].items() if field != "id"}
    for records, message in (
        (rows[:3], "'de' lacks the id '0', which 'en' has"),
        ([rows[0], *rows[2:]], "'en' lacks the id '1', which 'de' has"),
        ([*rows, rows[0]], "line 5: 'en' has the id '0' twice"),
        ([rows[0], without_id], "line 2 has no 'id', and earlier records of 'en' have one: give every record an id"),
        ([without_id, rows[0]], "line 2 has an 'id', and earlier records of 'en' have none: give every record an id"),
        (
            [{**rows[0], "answer": "3"}, *rows[1:]],
            "the answer of the id '0' must be the same in all languages: it is '3' in 'en', '2' in 'de'",
        ),
        ([{**rows[0], "id": None}], "line 1 needs an 'id'"),
        ([{**rows[0], "answer": ""}], "line 1 needs an 'answer' that is a number, got ''"),
        ([{**rows[0], "answer": True}], "line 1 needs an 'answer' that is a number, got True"),
        ([{**rows[0], "question": "  "}], "line 1 needs a non-empty string 'question'"),
        ([{**rows[0], "lang": 3}], "line 1 needs a string 'lang'"),
        ([[3]], "line 1 must be a JSON object"),
        ([], "has no records"),
    ):
        with pytest.raises(CorpusError, match=message):
            pmi.math(write_lines(tmp_path / "x.jsonl", *records))


def test_nli_joins_languages_by_id(tmp_path):
    rows = [
        {"lang": language, "id": name, "premise": f"P {name}", "hypothesis": f"H {name}", "label": label}
        for language in ("en", "fr")
        for name, label in (("a", "neutral"), ("b", "entailment"), ("c", "neutral"))
    ]
    task = pmi.nli(write_lines(tmp_path / "n.jsonl", *rows))
    assert task.labels == ("entailment", "neutral") and task.metric == "label"
    assert task.items[0] == ParallelItem(
        {language: {"premise": "P a", "hypothesis": "H a"} for language in ("en", "fr")}, ("neutral",)
    )
    two_labels = [{**row, "label": "not_entailment" if row["id"] == "c" else "entailment"} for row in rows]
    assert pmi.nli(write_lines(tmp_path / "n.jsonl", *two_labels)).labels == ("entailment", "not_entailment")
    rows[-1]["label"] = "contradiction"
    with pytest.raises(
        CorpusError,
        match="the label of the id 'c' must be the same in all languages: it is 'neutral' in 'en', 'contradiction' in "
        "'fr'",
    ):
        pmi.nli(write_lines(tmp_path / "n.jsonl", *rows))


def test_labels_must_be_words_or_the_numbers_of_xnli(tmp_path):
    row = {"lang": "en", "id": 1, "premise": "P", "hypothesis": "H"}
    for label, word in enumerate(("entailment", "neutral", "contradiction")):
        assert pmi.nli(write_lines(tmp_path / "n.jsonl", {**row, "label": label})).items[0].references == (word,)
    for label in (3, -1, "3", True, 1.0, " ", None):
        with pytest.raises(CorpusError, match=f"line 1 needs a 'label' .* such as entailment, .* got {label!r}"):
            pmi.nli(write_lines(tmp_path / "n.jsonl", {**row, "label": label}))
    # SuperGLUE's RTE has the same fields and "idx", and its 1 means that the premise does not entail the hypothesis.
    for label in (1, "1"):
        with pytest.raises(CorpusError, match=f"got {label!r} in a record with 'idx', which is of a task with other"):
            pmi.nli(write_lines(tmp_path / "n.jsonl", {**row, "label": label, "idx": 7}))


def test_lone_surrogates_are_replaced(tmp_path):
    lone, replaced = "a \ud83d b", "a \ufffd b"
    row = {"lang": "en", "id": 1, "hypothesis": "H", **dict.fromkeys(("question", "answer", "premise", "label"), lone)}
    path = write_lines(tmp_path / "x.jsonl", json.dumps(row))
    assert pmi.math(path).items == [ParallelItem({"en": {"question": replaced}}, (replaced,))]
    task = pmi.nli(path)
    assert task.items == [ParallelItem({"en": {"premise": replaced, "hypothesis": "H"}}, (replaced,))]
    assert task.labels == (replaced,)
    assert pmi.free({"de": [lone]}, [[lone]]).items == [ParallelItem(text_fields(de=replaced), (replaced,))]
    task = pmi.translation({"de": [lone], "en": [lone]}, target="en")
    assert task.items == [ParallelItem(text_fields(de=replaced), (replaced,))]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"metric": "blue"}, "metric must be one of bleu, number, label, got 'blue'"),
        ({"metric": "label"}, "metric 'label' needs labels="),
        ({"metric": "label", "labels": "yes"}, "labels must be a list of words, got the plain string 'yes'"),
    ],
)
def test_invalid_tasks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pmi.ParallelTask("t", "free", [], **options)


def test_free_tasks_check_texts_and_references():
    task = pmi.free({"de": ["lang", "kurz"], "en": ["long", "short"]}, ["l", ["s", "t"]])
    assert task.items == [
        ParallelItem(text_fields(de="lang", en="long"), ("l",)),
        ParallelItem(text_fields(de="kurz", en="short"), ("s", "t")),
    ]
    for texts, references, message in (
        ({"de": ["lang"]}, ["l", "s"], "'de' 1, the references 2"),
        ({}, [], "there are no texts"),
        ({"de": [""]}, ["l"], "text 1 in 'de' is empty"),
        ({"de": ["a", "b"]}, ["l", []], "text 2 has no correct answer, or an empty one"),
        ({"de": ["a", "b"]}, [" ", "l"], "text 1 has no correct answer, or an empty one"),
        ({"de": ["a", "b"]}, ["l", ["m", ""]], "text 2 has no correct answer, or an empty one"),
        ({"de": ["a", "b"]}, ["l", None], "text 2 has no correct answer, or an empty one"),
        ({"de": "ab"}, ["l", "m"], "the texts in 'de' must be a list, got the plain string 'ab'"),
        ({"de": ["a", "b"]}, "lm", "references must be a list, got the plain string 'lm'"),
    ):
        with pytest.raises(CorpusError, match=message):
            pmi.free(texts, references)
