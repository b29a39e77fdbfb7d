"""`reproduce ilo`: ILO, retrieval and CKA of a table of translations, cut to the time that there is."""

import json
from pathlib import Path

import pandas
import pytest
import torch

import pymultiling as pml
from pymultiling import demo_model
from pymultiling.methods.ilo import overlap_of_samples
from pymultiling.methods.reproduction import ilo as reproduction
from tests.support.command_line import assert_error_line, run
from tests.support.reproduction import assert_refused_before_loading
from tests.support.tiny_text import write_text

MODEL = Path(demo_model.__file__).parent / "model"
COLUMNS = {"eng_Latn": "en", "deu_Latn": "de", "fra_Latn": "fr", "spa_Latn": "es", "tur_Latn": "tr"}
SENTENCES = 20


def sentences_of(column: str) -> list[str]:
    """Returns sentences of a column: every second one is the same in all columns but for its last word."""
    heldout = demo_model.heldout()
    own, shared = (heldout[language][:SENTENCES] for language in (COLUMNS[column], "en"))
    return [f"{shared[i][:60]} {column}" if i % 2 else own[i][:60] for i in range(SENTENCES)]


@pytest.fixture
def data(tmp_path) -> Path:
    """A table of five languages in which row 3 lacks a cell."""
    columns = [sentences_of(column) for column in COLUMNS]
    columns[2][3] = ""
    (tmp_path / "data" / "parallel").mkdir(parents=True)
    write_text(tmp_path / "data" / "parallel" / "flores.tsv.gz", ["\t".join(row) for row in (COLUMNS, *zip(*columns))])
    return tmp_path / "data"


def reproduce(data: Path, out: Path, *options: object) -> int:
    return run("reproduce", "ilo", "--model", MODEL, "--data", data, "--out", out, "--quiet", *options)


def table(out: Path, name: str) -> pandas.DataFrame:
    return pandas.read_csv(out / f"{name}.csv")


def test_the_tables_are_those_of_the_functions_also_after_a_short_run(data, tmp_path, capsys, monkeypatch):
    """A short run measures the first sentences of all languages, and the full run only the others."""
    out = tmp_path / "out"
    assert reproduce(data, out, "--languages", "eng_Latn,deu_Latn,fra_Latn,es,tr", "--minutes", 0.001) == 0
    assert table(out, "samples")["items"].tolist() == [8] * 5
    measured = []
    embeddings = reproduction.sentence_embeddings

    def count(model, tokenizer, sentences, **options):
        measured.extend(len(texts) for texts in sentences.values())
        return embeddings(model, tokenizer, sentences, **options)

    monkeypatch.setattr(reproduction, "sentence_embeddings", count)
    assert reproduce(data, out, "--languages", "eng_Latn,deu_Latn,fra_Latn,es,tr") == 0
    assert measured == [SENTENCES - 1 - 8] * 5
    sentences = {column: [text for i, text in enumerate(sentences_of(column)) if i != 3] for column in COLUMNS}
    model, tokenizer = demo_model.load()
    points = embeddings(model, tokenizer, sentences, workers=0, progress=False)
    found = table(out, "ilo")
    pandas.testing.assert_frame_equal(found[["layer", "language", "bridge", "reach", "ilo"]], pml.ilo(points))
    pandas.testing.assert_frame_equal(table(out, "retrieval"), pml.retrieval(points), atol=1e-6)
    pandas.testing.assert_frame_equal(table(out, "cka"), pml.cka(points), atol=1e-4)
    means = table(out, "means").set_index("layer")
    pandas.testing.assert_series_equal(means["ilo"], found.groupby("layer")["ilo"].mean())
    assert (means["low"] <= means["high"]).all() and (means["high"] > means["low"]).any()
    printed = capsys.readouterr().out
    for text in (
        "ILO by language and layer",
        "sentences: eng_Latn 19 of 19",
        "Other than in the paper",
        "needs training",
    ):
        assert text in printed
    record = json.loads((out / "run.json").read_text("utf-8"))
    assert any(sentence.startswith("languages: 5 (eng_Latn") for sentence in record["departures"])
    assert "Mean ILO by layer and how certain it is" in (out / "report.html").read_text("utf-8")


def test_samples_have_the_overlap_of_their_sentences():
    """Weights of 0, 1 and 2 give what the sentences give that are left out, taken once and taken twice."""
    has_neighbour = torch.rand(9, 5, generator=torch.Generator().manual_seed(2)) < 0.3
    has_neighbour[:, 0] = False
    drawn = [0, 4, 4, 7]
    weights = torch.zeros(1, 9)
    for sentence in drawn:
        weights[0, sentence] += 1
    rows = has_neighbour[drawn]
    bridge, reach = (rows.sum(1) >= 2).double().mean().item(), rows.any(0).sum().item() / 4
    expected = [bridge, reach, 2 * bridge * reach / (bridge + reach) if bridge + reach else 0]
    assert overlap_of_samples(has_neighbour, weights / 4, tau=2)[0].tolist() == pytest.approx(expected)
    assert overlap_of_samples(torch.zeros(3, 5, dtype=torch.bool), torch.ones(1, 3), 2).tolist() == [[0, 0, 0]]


def no_table(data: Path) -> None:
    (data / "parallel" / "flores.tsv.gz").unlink()


def two_tables(data: Path) -> None:
    write_text(data / "parallel" / "other.tsv", ["en\tfr"])


def few_rows(data: Path) -> None:
    no_table(data)
    write_text(data / "parallel" / "few.tsv", ["\t".join(COLUMNS), *["\t".join("abcde")] * 7])


@pytest.mark.parametrize(
    "damage, options, messages",
    [
        (no_table, [], ["parallel must have one table", "has none"]),
        (two_tables, [], ["has other.tsv, flores.tsv.gz"]),
        (few_rows, [], ["has 7 rows without an empty cell", "at least 8"]),
        (lambda _: None, ["--languages", "en,de,fr"], ["has 3 of the languages", "more than 3"]),
        (lambda _: None, ["--languages", "en,de,fr,th"], ["has no language 'th'"]),
    ],
)
def test_says_what_is_missing_before_loading(data, tmp_path, capsys, monkeypatch, damage, options, messages):
    damage(data)
    out = tmp_path / "out"
    assert_refused_before_loading(lambda: reproduce(data, out, *options), out, messages, capsys, monkeypatch)


def test_options_of_another_paper_are_refused(data, tmp_path, capsys):
    assert reproduce(data, tmp_path / "out", "--seeds", 2) == 2
    assert_error_line(capsys, "--seeds: not allowed with ilo")
