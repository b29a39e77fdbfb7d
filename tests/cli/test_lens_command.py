"""On the embedded model: what it decodes to has letters."""

import json
import re
from pathlib import Path

import pandas
import pytest

import pymultiling as pml
from pymultiling import demo_model
from tests.support.command_line import assert_error_line, assert_folder_holds, run
from tests.support.tiny_text import write_text

pytest.importorskip("lingua")

MODEL = Path(demo_model.__file__).parent / "model"


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    heldout = demo_model.heldout()
    return {name: write_text(tmp_path / f"{name}.txt.gz", heldout[name][:5]) for name in ("ru", "fr")}


def lens(files, out, *more) -> int:
    given = [argument for name, path in files.items() for argument in ("--texts", f"{name}={path}")]
    return run("lens", "--model", MODEL, *given, "--out", out, *more)


def test_lens(tmp_path, files, capsys):
    out = tmp_path / "out"
    options = {"languages": ["fr", "en", "ru"], "top": 3, "max_length": 32, "pack": 24}
    more = ["--languages", "fr,en,ru", "--top", 3, "--max-length", 32, "--pack", 24]
    assert lens(files, out, *more) == 0
    printed = capsys.readouterr()
    assert_folder_holds(out, "lens.csv", "lens_ru.png", "lens_fr.png", "run.json")
    table = pandas.read_csv(out / "lens.csv")
    assert list(table.columns) == ["texts", "layer", "language", "share"]
    assert list(table["texts"].unique()) == ["ru", "fr"]
    assert table.groupby(["texts", "layer"])["share"].sum().tolist() == pytest.approx([1] * 14, abs=1e-4)
    model, tokenizer = demo_model.load()
    for name, path in files.items():
        truth = pml.lens(model, tokenizer, path, **options)
        found = table[table["texts"] == name].drop(columns="texts").reset_index(drop=True)
        pandas.testing.assert_frame_equal(found, truth, rtol=0, atol=5.1e-7)  # six digits
        last = found[found["layer"] == 6].set_index("language")["share"]
        assert last.idxmax() == name  # so that the two are not taken for each other
        assert (out / f"lens_{name}.png").stat().st_size > 10_000
    assert ": decoding: 9 documents" in printed.err
    record = json.loads((out / "run.json").read_text())
    assert set(record["corpora"]) == set(record["texts"]) == {"ru", "fr"} and record["arguments"]["languages"] == [
        "fr",
        "en",
        "ru",
    ]


def test_what_is_printed(tmp_path, files, capsys):
    """Languages with a share of 2 % in any layer, that of the last layer's largest share first."""
    assert lens({"fr": files["fr"]}, tmp_path / "out", "--languages", "ka,en,fr") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(
        "fr: texts 5\nshares of the languages with 2% of any layer, and of tokens that tell none (other)\n"
    )
    shares = pandas.read_csv(tmp_path / "out" / "lens.csv").pivot(index="layer", columns="language", values="share")
    assert shares["ka"].max() < 0.02 and shares.loc[6].idxmax() == "fr"
    header = shown.splitlines()[2].split()
    assert header[:2] == ["language", "fr"] and set(header[2:]) == {"en", "other"}
    last = re.search(r"^6 .*$", shown, re.MULTILINE)[0].split()
    assert [float(one) for one in last[1:]] == pytest.approx(shares.loc[6, header[1:]].tolist(), abs=6e-3)


@pytest.mark.parametrize(
    "more, status, words",
    [
        (["--languages", "fr,xx"], 1, "languages must be among af, "),
        (["--languages", "fr"], 1, "two or more different ones"),
        (["--languages", "fr,fr"], 2, "'fr,fr' is no list of different codes"),
        (["--languages", "fr,en", "--top", "8001"], 1, "top must be between 1 and the 8000 tokens"),
        (["--top", "0"], 2, "--top: '0' is not a count of at least 1"),
        (["--texts", "fr=fr.txt.gz"], 2, "--texts: 'fr' is given more than once"),
        (["--texts", "fr.txt.gz"], 2, "NAME=FILE"),
        (["--texts", "de=absent.txt"], 1, "absent.txt: no such file"),
    ],
)
def test_wrong_arguments(tmp_path, files, capsys, monkeypatch, more, status, words):
    monkeypatch.chdir(tmp_path)
    assert lens(files, "out", *more) == status
    assert_error_line(capsys, words)
    assert_folder_holds(tmp_path, *(path.name for path in files.values()))


def test_texts_with_nothing_in_them(tmp_path, files, capsys):
    files["de"] = write_text(tmp_path / "de.txt", ["", " "])
    assert lens(files, tmp_path / "out", "--languages", "fr,en") == 1
    assert_error_line(capsys, "no documents to decode: texts 2, empty 2")
    assert not (tmp_path / "out").exists()
