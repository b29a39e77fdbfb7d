"""`lens`, with the demo model: its tokens are made of letters, so that lingua can tell their languages."""

import json
import re
from pathlib import Path

import pandas
import pytest

import pymultiling as pml
from pymultiling import demo_model
from tests.support.command_line import assert_error_line, assert_folder_holds, repeat, run
from tests.support.tiny_text import write_text

pytest.importorskip("lingua")

MODEL = Path(demo_model.__file__).parent / "model"


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    heldout = demo_model.heldout()
    return {name: write_text(tmp_path / f"{name}.txt.gz", heldout[name][:5]) for name in ("ru", "fr")}


def lens(files, out, *options) -> int:
    return run("lens", "--model", MODEL, *repeat("--texts", files), "--out", out, *options)


def test_writes_the_table_that_lens_gives(tmp_path, files, capsys):
    out = tmp_path / "out"
    settings = {"languages": ["fr", "en", "ru"], "top": 3, "max_length": 32, "pack": 24}
    options = ["--languages", "fr,en,ru", "--top", 3, "--max-length", 32, "--pack", 24]
    assert lens(files, out, *options) == 0
    printed = capsys.readouterr()
    assert_folder_holds(out, "lens.csv", "lens_ru.png", "lens_fr.png", "run.json", "report.html")
    table = pandas.read_csv(out / "lens.csv")
    assert list(table.columns) == ["texts", "layer", "language", "share"]
    assert list(table["texts"].unique()) == ["ru", "fr"]
    assert table.groupby(["texts", "layer"])["share"].sum().tolist() == pytest.approx([1] * 14, abs=1e-4)
    model, tokenizer = demo_model.load()
    for name, path in files.items():
        truth = pml.lens(model, tokenizer, path, **settings)
        written = table[table["texts"] == name].drop(columns="texts").reset_index(drop=True)
        pandas.testing.assert_frame_equal(written, truth, rtol=0, atol=5.1e-7)  # the file has six decimals
        last = written[written["layer"] == 6].set_index("language")["share"]
        assert last.idxmax() == name  # the two corpora are not mixed up
        assert (out / f"lens_{name}.png").stat().st_size > 10_000
    assert ": decoding (1 of 2): 9 documents" in printed.err
    record = json.loads((out / "run.json").read_text())
    assert set(record["corpora"]) == set(record["texts"]) == {"ru", "fr"}
    assert record["arguments"]["languages"] == ["fr", "en", "ru"]


def test_prints_languages_that_reach_two_percent_in_some_layer(tmp_path, files, capsys):
    """The language with the largest fraction in the last layer comes first."""
    assert lens({"fr": files["fr"]}, tmp_path / "out", "--languages", "ka,en,fr") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(
        "fr: texts 5\n"
        "fraction of each layer's tokens that are in each language, for languages with at least 2% in some layer "
        "(other: tokens that belong to no language)\n"
    )
    shares = pandas.read_csv(tmp_path / "out" / "lens.csv").pivot(index="layer", columns="language", values="share")
    assert shares["ka"].max() < 0.02 and shares.loc[6].idxmax() == "fr"
    header = shown.splitlines()[2].split()
    assert header[:2] == ["language", "fr"] and set(header[2:]) == {"en", "other"}
    last = re.search(r"^6 .*$", shown, re.MULTILINE)[0].split()
    assert [float(word) for word in last[1:]] == pytest.approx(shares.loc[6, header[1:]].tolist(), abs=6e-3)


def test_prints_the_languages_with_the_largest_fractions_where_not_all_fit(tmp_path, files, capsys, monkeypatch):
    monkeypatch.setattr("pymultiling.cli.lens.MAX_SHOWN", 2)
    assert lens({"fr": files["fr"]}, tmp_path / "out", "--languages", "ka,en,fr") == 0
    shown = capsys.readouterr().out
    shares = pandas.read_csv(tmp_path / "out" / "lens.csv").pivot(index="layer", columns="language", values="share")
    assert set(shown.splitlines()[2].split()[1:]) == set(shares.max().nlargest(2).index)
    assert "\nnot shown, but in lens.csv: 1 more with smaller fractions\n\nresults are in" in shown


@pytest.mark.parametrize(
    "options, status, text",
    [
        (["--languages", "fr,xx"], 1, "languages must be among af, "),
        (["--languages", "fr"], 1, "two or more different ones"),
        (["--languages", "fr,fr"], 2, "'fr,fr' is not a list of different codes"),
        (["--languages", "fr,en", "--top", "8001"], 1, "top must be between 1 and the 8000 tokens"),
        (["--top", "0"], 2, "--top: '0' is not a whole number of at least 1"),
        (["--texts", "fr=fr.txt.gz"], 2, "--texts: 'fr' is given more than once"),
        (["--texts", "fr.txt.gz"], 2, "NAME=FILE"),
        (["--texts", "de=absent.txt"], 1, "absent.txt: no such file"),
    ],
)
def test_rejects_wrong_arguments(tmp_path, files, capsys, monkeypatch, options, status, text):
    monkeypatch.chdir(tmp_path)
    assert lens(files, "out", *options) == status
    assert_error_line(capsys, text)
    assert_folder_holds(tmp_path, *(path.name for path in files.values()))


def test_rejects_texts_that_are_all_empty(tmp_path, files, capsys):
    files["de"] = write_text(tmp_path / "de.txt", ["", " "])
    assert lens(files, tmp_path / "out", "--languages", "fr,en") == 1
    assert_error_line(capsys, "no documents to decode: texts 2, empty 2")
    assert_folder_holds(tmp_path / "out", "checkpoint")  # of the other texts, which were decoded before
