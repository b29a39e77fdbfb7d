"""MSVAMP and XNLI as they are published: names of fields, formats of files, and records without an id."""

import gzip
import json

import pandas
import pytest

from pymultiling import CorpusError
from pymultiling.methods import pmi
from pymultiling.methods.pmi import ParallelItem

TEXTS = {"en": ("It rains.", "It is wet.", "It is dry."), "de": ("Es regnet.", "Es ist nass.", "Es ist trocken.")}
# What XNLI has: the same pairs in each language, with the label as a word or a number.
PAIRS = (("entailment", 0, 1), ("contradiction", 2, 2))  # word, number, which of TEXTS is the hypothesis


def expected_pairs(*languages: str) -> list[ParallelItem]:
    return [
        ParallelItem(
            {name: {"premise": TEXTS[name][0], "hypothesis": TEXTS[name][place]} for name in languages}, (word,)
        )
        for word, _, place in PAIRS
    ]


def write_msvamp(path, *questions):
    records = [
        {"query": "3 + 4 ?", "equation": "+ number0 number1", "response": answer, "m_query": question}
        for question, answer in questions
    ]
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return path


def xnli_table(languages=("en", "de"), left_out: str = "") -> str:
    """Returns a table as XNLI 1.0 is published, with a part of its columns, and the pairs of the languages shuffled."""
    columns = [
        name
        for name in ("language", "gold_label", "sentence1", "sentence2", "promptID", "pairID", "label1")
        if name != left_out
    ]
    rows = [
        {
            "language": language,
            "gold_label": word,
            "sentence1": TEXTS[language][0],
            "sentence2": TEXTS[language][place],
            "promptID": "1",
            "pairID": str(place),
            "label1": "neutral",  # of one annotator
        }
        for language in languages
        for word, _, place in (PAIRS if language == "en" else PAIRS[::-1])
    ]
    return "".join("\t".join(row) + "\n" for row in [columns, *([row[name] for name in columns] for row in rows)])


def test_msvamp_is_read_from_a_file_for_each_language(tmp_path):
    """It has no ids: questions of the same line correspond. Answers have a .0, and questions begin with a space."""
    source = {
        "en": write_msvamp(tmp_path / "test_English.json", ("What is 3 + 4?", "7.0"), ("What is 1 - 3?", "-2.0")),
        "de": write_msvamp(tmp_path / "test_German.json", (" Was ist 3 + 4?", "7"), (" Was ist 1 - 3?", -2.0)),
    }
    assert pmi.math(source).items == [
        ParallelItem({"en": {"question": "What is 3 + 4?"}, "de": {"question": "Was ist 3 + 4?"}}, ("7",)),
        ParallelItem({"en": {"question": "What is 1 - 3?"}, "de": {"question": "Was ist 1 - 3?"}}, ("-2",)),
    ]
    write_msvamp(source["de"], ("Was ist 3 + 4?", "7"))
    with pytest.raises(CorpusError, match="'de' lacks record 2, which 'en' has"):
        pmi.math(source)
    write_msvamp(source["de"], ("Was ist 1 - 3?", "-2"), ("Was ist 3 + 4?", "7"))
    with pytest.raises(CorpusError, match="answer of record 1 must be the same in all languages: it is '7' in 'en'"):
        pmi.math(source)
    with pytest.raises(CorpusError, match=r"test_German\.json, line 1 needs a string 'lang' or 'language'; or give"):
        pmi.math(source["de"])


@pytest.mark.parametrize("name", ["xnli.test.tsv", "xnli.test.tsv.gz"])
def test_xnli_is_read_from_its_table(tmp_path, name):
    """Pairs of the same pairID correspond; quotes have no meaning."""
    path = tmp_path / name
    (gzip.open if name.endswith(".gz") else open)(path, "wb").write(xnli_table().encode())
    task = pmi.nli(path)
    assert task.items == expected_pairs("en", "de")
    assert task.labels == ("entailment", "contradiction")


def test_xnli_is_read_from_its_json_lines(tmp_path):
    names, *rows = (line.split("\t") for line in xnli_table().splitlines())
    path = tmp_path / "xnli.test.jsonl"
    path.write_text("".join(json.dumps(dict(zip(names, row))) + "\n" for row in rows), "utf-8")
    assert pmi.nli(path).items == expected_pairs("en", "de")


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_xnli_of_the_hub_is_read_from_a_file_for_each_language(tmp_path, ending):
    source = {}
    for language, texts in TEXTS.items():
        table = pandas.DataFrame(
            [{"premise": texts[0], "hypothesis": texts[place], "label": number} for _, number, place in PAIRS]
        )
        source[language] = tmp_path / f"{language}.{ending}"
        table.to_parquet(source[language]) if ending == "parquet" else table.to_json(
            source[language], orient="records", lines=True
        )
    assert pmi.nli(source).items == expected_pairs("en", "de")


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_xnli_of_the_hub_is_read_from_a_file_with_all_languages(tmp_path, ending):
    rows = [
        {
            "premise": {language: texts[0] for language, texts in TEXTS.items()},
            "hypothesis": {
                "language": ["de", "en"],  # in another order than the premises
                "translation": [TEXTS[language][place] for language in ("de", "en")],
            },
            "label": number,
        }
        for _, number, place in PAIRS
    ]
    path = tmp_path / f"all.{ending}"
    if ending == "parquet":
        pandas.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert pmi.nli(path).items == expected_pairs("en", "de")


@pytest.mark.parametrize("column", ["language", "gold_label", "sentence1", "sentence2"])
def test_a_missing_column_is_named(tmp_path, column):
    path = tmp_path / "xnli.tsv"
    path.write_text(xnli_table(left_out=column), "utf-8")
    with pytest.raises(CorpusError, match=f"xnli.tsv, line 2 (lacks|needs).*'{column}'"):
        pmi.nli(path)


def test_a_question_or_an_answer_that_is_missing_is_named(tmp_path):
    path = tmp_path / "de.json"
    for record, message in (
        ({"query": "3 + 4 ?", "response": "7"}, "line 1 lacks 'question' or 'm_query': it has query, response"),
        ({"m_query": "3 + 4 ?", "query": "7"}, "line 1 lacks 'answer' or 'response': it has m_query, query"),
    ):
        path.write_text(json.dumps(record), "utf-8")
        with pytest.raises(CorpusError, match=message):
            pmi.math({"de": path})


def test_a_table_of_several_languages_is_not_taken_for_one(tmp_path):
    path = tmp_path / "xnli.tsv"
    path.write_text(xnli_table(), "utf-8")
    with pytest.raises(CorpusError, match=r"line 4 is in 'de', an earlier .* in 'en', .* give the file by itself"):
        pmi.nli({"en": path})
    path.write_text(xnli_table(["de"]), "utf-8")
    assert [*pmi.nli({"German": path}).items[0].texts] == ["German"]


@pytest.mark.parametrize(
    "table, message",
    [
        (
            "premise\tpremise\nIt rains.\tIt is wet.\n",
            "first line must name each column once, got premise, premise",
        ),
        ("premise\thypothesis\nIt rains.\n", "line 2: expected 2 columns as in the first line, got 1"),
        ("", "the first line must name each column once"),
    ],
)
def test_tables_with_other_lines_are_refused(tmp_path, table, message):
    path = tmp_path / "en.tsv"
    path.write_text(table, "utf-8")
    with pytest.raises(CorpusError, match=message):
        pmi.nli({"en": path})


def test_a_file_that_is_no_parquet_file_is_refused(tmp_path):
    (path := tmp_path / "en.parquet").write_bytes(b"premise")
    with pytest.raises(CorpusError, match=r"en\.parquet is not a parquet file, or is damaged"):
        pmi.nli({"en": path})
