"""The measurements of a real model, with the demo model and tiny samples."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.experiments.real_models import prices
from benchmarks.experiments.real_models.__main__ import main
from benchmarks.experiments.real_models.effects import effect_tables
from benchmarks.experiments.real_models.inputs import Inputs
from benchmarks.experiments.real_models.parts import PARTS
from benchmarks.experiments.real_models.record import markdown
from benchmarks.experiments.real_models.sample import Sample
from benchmarks.whole_model import by_model_size
from pymultiling import SITES, NeuronSet, demo_model

DEMO = Path(demo_model.__file__).parent
LANGUAGES = ("en", "de")
SIZES = {
    "price-lengths": 8,
    "rounds": 1,
    "exact-lengths": 12,
    "neurons": 2,
    "fast-lengths": 24,
    "documents": 2,
    "tokens": 200,
    "heldout": 40,
    "draws": 2,
    "lens-tokens": 40,
    "items": 4,
}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The command's arguments, after all parts were measured. Prices are measured in this process."""
    folder = tmp_path_factory.mktemp("real_models")
    corpora = folder / "corpora"
    corpora.mkdir()
    for language in LANGUAGES:
        for name in (f"{language}.txt.gz", f"{language}.heldout.txt.gz"):
            (corpora / name).symlink_to(DEMO / "text" / name)
    sentences = zip(*(demo_model.heldout()[language][:3] for language in LANGUAGES))
    (folder / "parallel.tsv").write_text("\n".join(map("\t".join, [LANGUAGES, *sentences])) + "\n")
    paths = {"model": DEMO / "model", "corpora": corpora, "parallel": folder / "parallel.tsv", "out": folder / "out"}
    arguments = [word for name, value in {**paths, **SIZES}.items() for word in (f"--{name}", str(value))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prices, "measure_in_process", by_model_size.measure)
        main(arguments)
    return arguments


def json_file(command: list[str]) -> Path:
    return Path(command[command.index("--out") + 1]) / "model.json"


@pytest.fixture(scope="module")
def tables(command):
    """{part: {title: rows}}."""
    parts = json.loads(json_file(command).read_text())["parts"]
    return {name: part["tables"] for name, part in parts.items()}


def test_both_files_have_the_same_numbers_of_every_part(command, tables):
    page = json_file(command).with_suffix(".md").read_text()
    assert list(tables) == list(PARTS)
    for name, titles in tables.items():
        section = page.split(f"## {PARTS[name].title}")[1].split("\n## ")[0]
        for title, rows in titles.items():
            lines = section.split(f"### {title}\n")[1].split("\n### ")[0].strip().splitlines()
            cells = [["-" if cell is None else str(cell) for cell in row.values()] for row in rows]
            assert [line.strip("| ").split(" | ") for line in lines] == [list(rows[0]), ["---"] * len(rows[0]), *cells]


def test_prices_are_those_of_every_dtype(tables):
    (rows,) = tables["prices"].values()
    by_name = {row.pop("measured"): row for row in rows}
    for name in ("activation counts", "ffn, v, o", "all sites", "all sites, fast q and k"):
        row = by_name[f"{name}, times forward"]
        assert list(row) == ["float32, 8 tokens", "bfloat16, 8 tokens"] and min(row.values()) > 0


def test_importance_and_its_estimate_are_close_to_what_they_are_compared_with(tables):
    (errors,) = tables["exactness"].values()
    for row in errors:  # two neurons of five sites in three layers
        assert row["compared"] == 30
        assert max(row[site] for site in SITES) < (1e-12 if row["dtype"] == "float64" else 1e-4)
    (estimates,) = tables["fast"].values()
    assert [row["site"] for row in estimates] == ["q", "k"]
    assert all(0.99 < row["rank corr. min"] <= 1 and 0 < row["error median"] < 0.05 for row in estimates)


@pytest.mark.parametrize("part", ["sets", "lape"])
def test_own_effects_are_the_diagonal_of_the_matrix(tables, part):
    own, matrix = tables[part].values()
    assert [row["language"] for row in own] == list(LANGUAGES) and all(row["neurons"] for row in own)
    effects = {row.pop("set"): row for row in matrix}
    for row, other in zip(own, reversed(LANGUAGES)):
        language = row["language"]
        assert (row["own"], row["others"]) == (effects[language][language], effects[language][other])
        assert row["random_least"] <= row["random"] <= row["random_most"]


def test_ternary_classes_have_the_neurons_that_the_histogram_counts(tables):
    histogram, effects = tables["ternary"].values()
    sizes = {row["set"]: row["neurons"] for row in effects}
    counts = {row["languages"]: row["neurons"] for row in histogram}
    assert sizes["specific"] == sizes["random as specific"] == counts[1] > 0
    assert sizes.get("general", 0) == counts[2]


def test_the_last_layer_decodes_to_the_language_of_the_text(tables):
    own, english, no_language = (rows[-1] for rows in tables["lens"].values())
    assert own["layer"] == 6 and own["en"] == english["en"]
    assert own["de"] > 0.5 > english["de"]
    assert own["de"] + english["de"] + no_language["de"] == pytest.approx(1, abs=2e-3)  # each has three decimals


def test_mwork_has_the_layers_that_the_search_found(tables):
    (_, search), (_, rows) = tables["mwork"].items()
    assert [(row["part"], row["layers"]) for row in search] == [
        ("understanding", 1),
        ("understanding", 2),
        ("generation", 1),
        ("generation", 2),
    ]
    delta = max(row["delta"] for row in search if row["part"] == "generation")
    own = next(row["delta"] for row in rows if row["neurons that are off"] == "generation: own")
    assert own == pytest.approx(delta, abs=1.1e-3)  # both have three decimals


def test_a_run_measures_the_missing_parts_only(command, capsys):
    file = json_file(command)
    before = json.loads(file.read_text())
    missing = {**before, "parts": {name: part for name, part in before["parts"].items() if name != "fast"}}
    file.write_text(json.dumps(missing))
    main([*command, "--minutes", "0"])
    assert json.loads(file.read_text()) == missing
    main([*command, "--parts", "fast,sets"])
    after = json.loads(file.read_text())
    assert after["parts"]["fast"]["tables"] == before["parts"]["fast"]["tables"]
    assert {**after["parts"], "fast": None} == {**before["parts"], "fast": None}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("0.0 minutes are over: fast") and [line.split(":")[0] for line in lines[1:]] == ["fast"]


def test_sets_without_neurons_have_no_effects(command):
    empty = NeuronSet({"ffn": torch.zeros(6, 640, dtype=torch.bool)})
    value_of = dict(zip(command[::2], command[1::2]))
    paths = (Path(value_of[f"--{name}"]) for name in ("model", "corpora", "parallel"))
    inputs = Inputs(*paths, Sample(languages=2, heldout=40), {"en": 1.0, "de": 1.5})
    tables = effect_tables(inputs, dict.fromkeys(LANGUAGES, empty))
    own, matrix = tables.values()
    assert [row.pop("language") for row in own] == list(LANGUAGES) and matrix == []
    assert all(row.pop("neurons") == 0 and set(row.values()) == {None} for row in own)
    sets = {"environment": dict.fromkeys(("date", "commit", "torch", "cpu", "threads"), ""), "seconds": 1}
    page = markdown({"model": "demo", "sample": {}, "bits": None, "parts": {"sets": {**sets, "tables": tables}}})
    assert page.endswith("### Effect of each set on each language\n\nNo rows.\n")


def test_refuses_another_sample_and_unknown_parts(command, capsys):
    with pytest.raises(SystemExit, match=r"another sample \(neurons\)"):
        main([*command, "--neurons", "3"])
    with pytest.raises(SystemExit):
        main([*command, "--parts", "prices,speed"])
    assert "no such part: speed" in capsys.readouterr().err
