import json

import pandas
import pytest
from transformers import AutoModelForCausalLM

import pymultiling as pml
from pymultiling.probes.hidden_states import SentenceMeanProbe
from tests.support.command_line import SMALL_BATCHES, assert_error_line, assert_folder_holds, repeat, run
from tests.support.tiny_text import texts, tiny_tokenizer, write_text

LANGUAGES = {"it": texts("fr", seed=1), "fr": texts("fr"), "de": texts("de"), "nl": texts("de", seed=1)}
LANGUAGES["de"][2] = ""  # a missing sentence
FEW_NEIGHBOURS = ["--k", "2", "--tau", "1"]


@pytest.fixture
def table(tmp_path):
    rows = zip(map(str, range(9)), *LANGUAGES.values())
    return write_text(tmp_path / "table.tsv.gz", ["\t".join(row) for row in (["id", *LANGUAGES], *rows)])


def ilo(model, out, *options) -> int:
    return run("ilo", "--model", model, "--out", out, *SMALL_BATCHES, *options)


def embed(model, sentences, max_length: int = 16) -> pml.SentenceEmbeddings:
    loaded = AutoModelForCausalLM.from_pretrained(model)
    return pml.sentence_embeddings(loaded, tiny_tokenizer(), sentences, max_length=max_length, batch_tokens=64)


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def assert_table(path, truth: pandas.DataFrame) -> None:
    pandas.testing.assert_frame_equal(pandas.read_csv(path), truth, rtol=1e-9)


@pytest.mark.parametrize("metric, k, tau", [("cosine", 5, 3), ("euclidean", 2, 1)])
def test_writes_the_tables_of_ilo_retrieval_and_cka(model, tmp_path, table, capsys, metric, k, tau):
    settings = [] if k == 5 else ["--k", k, "--tau", tau, "--metric", metric]  # k=5 is the default
    out = tmp_path / "out"
    assert ilo(model, out, "--parallel", table, "--max-length", "8", *settings) == 0
    printed = capsys.readouterr()
    assert "de: texts 6, empty 1, cut 3" in printed.out and "no retrieval" not in printed.out
    assert "nl: embedding (4 of 4): 6 sentences" in printed.err
    assert_folder_holds(out, "ilo.csv", "ilo.png", "retrieval.csv", "cka.csv", "run.json", "report.html")
    embedded = embed(model, LANGUAGES, max_length=8)
    assert_table(out / "ilo.csv", pml.ilo(embedded, k=k, tau=tau, metric=metric))
    assert_table(out / "retrieval.csv", pml.retrieval(embedded, metric=metric))
    assert_table(out / "cka.csv", pml.cka(embedded))
    assert (out / "ilo.png").stat().st_size > 10_000
    record = json.loads((out / "run.json").read_text())
    assert record["arguments"]["k"] == k and record["texts"]["de"]["empty"] == 1
    assert record["corpora"]["parallel"]["file"] == str(table) and len(record["corpora"]["parallel"]["sha256"]) == 64
    assert {"load", "embeddings", "ilo", "retrieval and cka", "total"} == set(record["seconds"])


def test_prints_the_means_by_layer(model, tmp_path, table, capsys):
    assert ilo(model, tmp_path / "out", "--parallel", table, *FEW_NEIGHBOURS) == 0
    shown = capsys.readouterr().out.split("means over languages, and over pairs of languages\n")[1].splitlines()
    columns, rows = shown[0].split(), [row.split() for row in shown[2:5]]
    assert columns == ["bridge", "reach", "ilo", "retrieval", "cka"] and [row[0] for row in rows] == ["0", "1", "2"]
    for name, column in (("ilo", "ilo"), ("retrieval", "accuracy"), ("cka", "cka")):
        means = pandas.read_csv(tmp_path / "out" / f"{name}.csv").groupby("layer")[column].mean()
        assert [float(row[1 + columns.index(name)]) for row in rows] == pytest.approx(means.tolist(), abs=6e-4)


def test_languages_chooses_and_orders_the_columns(model, tmp_path, table):
    assert ilo(model, tmp_path / "out", "--parallel", table, "--languages", "nl,it", *FEW_NEIGHBOURS) == 0
    truth = pml.ilo(embed(model, {code: LANGUAGES[code] for code in ("nl", "it")}), k=2, tau=1)
    assert truth["language"].tolist() == ["nl", "it"] * 3
    assert_table(tmp_path / "out" / "ilo.csv", truth)


def test_limit_uses_the_first_sentences(model, tmp_path, table):
    assert ilo(model, tmp_path / "out", "--parallel", table, "--limit", "4", *FEW_NEIGHBOURS) == 0
    embedded = embed(model, {language: sentences[:4] for language, sentences in LANGUAGES.items()})
    assert_table(tmp_path / "out" / "ilo.csv", pml.ilo(embedded, k=2, tau=1))
    assert_table(tmp_path / "out" / "retrieval.csv", pml.retrieval(embedded))


def test_files_of_sentences_give_the_same_results_as_a_table(model, tmp_path, table):
    files = {name: write_text(tmp_path / f"{name}.txt.gz", sentences) for name, sentences in LANGUAGES.items()}
    assert ilo(model, tmp_path / "files", *repeat("--sentences", files)) == 0
    assert ilo(model, tmp_path / "table", "--parallel", table) == 0
    for name in ("ilo.csv", "retrieval.csv", "cka.csv"):
        assert (tmp_path / "files" / name).read_bytes() == (tmp_path / "table" / name).read_bytes()
    record = json.loads((tmp_path / "files" / "run.json").read_text())
    assert list(record["corpora"]) == list(LANGUAGES) and record["texts"]["de"]["empty"] == 1


def test_files_of_different_lengths_have_ilo_and_no_retrieval(model, tmp_path, capsys):
    sentences = {"fr": LANGUAGES["fr"], "de": LANGUAGES["de"][:5]}
    files = {language: write_text(tmp_path / f"{language}.txt", texts) for language, texts in sentences.items()}
    assert ilo(model, tmp_path / "out", *repeat("--sentences", files), *FEW_NEIGHBOURS) == 0
    assert_folder_holds(tmp_path / "out", "ilo.csv", "ilo.png", "run.json", "report.html")
    assert_table(tmp_path / "out" / "ilo.csv", pml.ilo(embed(model, sentences), k=2, tau=1))
    printed = capsys.readouterr().out
    assert "de: texts 5, empty 1" in printed
    assert "no retrieval and no CKA: the languages' files have different numbers of lines" in printed


def test_an_interrupted_run_continues_from_its_result_folder(model, tmp_path, table, capsys, monkeypatch):
    """No sentence is embedded a second time, and the results replace the state."""
    out = tmp_path / "out"
    assert ilo(model, tmp_path / "whole", "--parallel", table) == 0
    with monkeypatch.context() as patch:
        patch.setattr("pymultiling.results.plots.save", interrupt)
        assert ilo(model, out, "--parallel", table) == 130
    assert_error_line(capsys, f"no results were written; run the same command again to continue from {out}/checkpoint")
    assert_folder_holds(out, "checkpoint")
    with monkeypatch.context() as patch:
        patch.setattr(SentenceMeanProbe, "launch", None)
        assert ilo(model, out, "--parallel", table) == 0
    for name in ("ilo.csv", "retrieval.csv", "cka.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (out / "checkpoint").exists()


@pytest.mark.parametrize(
    "options, status, text",
    [
        (
            ["--parallel", "TABLE", "--languages", "fr,es"],
            1,
            "no language 'es': its languages are it, fr, de, nl",
        ),
        ([], 2, "one of the arguments --parallel --sentences is required"),
        (["--parallel", "TABLE", "--sentences", "fr=TABLE"], 2, "--sentences: not allowed with argument --parallel"),
        (["--sentences", "fr=TABLE", "--languages", "fr"], 2, "--languages: not allowed with --sentences"),
        (["--sentences", "fr=TABLE", "--sentences", "fr=TABLE"], 2, "--sentences: 'fr' is given more than once"),
        (["--parallel", "TABLE", "--languages", "fr,fr"], 2, "'fr,fr' is not a list of different codes"),
        (["--parallel", "TABLE", "--metric", "dot"], 2, "'dot'"),
        (["--parallel", "TABLE", "--limit", "0"], 2, "--limit: '0' is not a whole number of at least 1"),
        (["--parallel", "TABLE", "--tau", "4"], 1, "tau = 4 other languages are more than the 3 that there are"),
        (["--parallel", "TABLE", "--k", "2"], 1, "tau must be between 1 and k"),
        (["--parallel", "TABLE", "--k", "23"], 1, "23 neighbours need at least 24 sentences, got 23"),
        (
            ["--parallel", "TABLE", "--languages", "fr", *FEW_NEIGHBOURS],
            1,
            "at least two languages are compared, got 1",
        ),
        (["--parallel", "absent.tsv"], 1, "absent.tsv: no such file"),
        (["--sentences", "fr=absent.txt"], 1, "absent.txt: no such file"),
        (
            ["--sentences", "fr=BLANK", "--sentences", "de=BLANK", *FEW_NEIGHBOURS],
            1,
            "language 'fr' has no sentences: texts 2, empty 2",
        ),
    ],
)
def test_rejects_wrong_arguments(model, tmp_path, table, capsys, monkeypatch, options, status, text):
    monkeypatch.chdir(tmp_path)
    names = {"TABLE": table.name, "BLANK": write_text(tmp_path / "blank.txt", ["", " "]).name}
    for name, file in names.items():
        options = [word.replace(name, file) for word in options]
    assert ilo(model, tmp_path / "out", *options) == status
    assert_error_line(capsys, text)
    state = {"out"} if "23" in options else set()  # of the sentences, which were embedded before
    assert_folder_holds(tmp_path, *names.values(), *state)
