import json

import pandas
import pytest
import torch
from transformers import AutoModelForCausalLM

import pymultiling as pml
from tests.support.command_line import assert_error_line, detect, run
from tests.support.tiny_text import texts, tiny_tokenizer


def mwork(model, tmp_path, *more) -> int:
    return run("mwork", "--model", model, "--out", tmp_path / "out", "--batch-tokens", "256", "--english", "de", *more)


def test_mwork(model, tmp_path, corpora, capsys):
    assert detect(model, corpora, tmp_path / "found", "--share", "0.1") == 0
    given = [argument for name, path in corpora.items() for argument in ("--text", f"{name}={path}")]
    sets = ["--neurons", tmp_path / "found" / "neurons", "--metric", "likelihood", "--limit", "4", "--seeds", "2"]
    assert mwork(model, tmp_path, *sets, *given, "--understanding", "1", "--generation", "1") == 0
    table = pandas.read_csv(tmp_path / "out" / "mwork.csv")
    assert table["neurons"][0] == "none" and set(table["task"]) == {"continuation"}
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), tiny_tokenizer()
    neurons = pml.NeuronSet.load(tmp_path / "found" / "neurons" / "fr.safetensors")
    task = pml.tasks.continuation({name: texts(name) for name in corpora}).judged_by("likelihood").only(limit=4)
    spans = {"understanding": range(1), "generation": range(1, 2)}
    truth = pml.mwork(loaded, tokenizer, {"fr": neurons}, task, english="de", seeds=(0, 1), **spans)
    assert table["delta"].tolist() == pytest.approx(truth["delta"].tolist(), abs=1e-5)
    printed = capsys.readouterr().out
    assert "Layers of understanding: 0 to 0; of generation: 1 to 1; of 2." in printed and "S-ATTN" in printed
    assert (tmp_path / "out" / "mwork.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "run.json").read_text())["tasks"] == {"continuation": "likelihood"}

    assert mwork(model, tmp_path, *sets, *given, "--search", "fr") == 0
    assert pandas.read_csv(tmp_path / "out" / "search.csv")["part"].tolist() == ["understanding", "generation"]


@pytest.mark.parametrize(
    "arguments, word",
    [
        ([], "--neurons is required"),
        (["--neurons", "x"], "no task is given"),
        (["--neurons", "x", "--text", "fr=a"], "without --search --understanding is required"),
        (["--neurons", "x", "--mgsm", "m.jsonl"], "with --mgsm --exemplars is required"),
        (["--neurons", "x", "--xquad", "m.jsonl"], "with --xquad --contexts is required"),
        (["--neurons", "x", "--xlsum", "fr=a", "--xlsum", "fr=b"], "more than once"),
        (["--neurons", "x", "--text", "fr=a", "--search", "fr", "--generation", "1"], "not allowed with --generation"),
        (["--demo"], "--demo: not allowed with --model"),
    ],
)
def test_mwork_without_what_it_needs(model, tmp_path, capsys, arguments, word):
    assert mwork(model, tmp_path, *arguments) == 2
    assert_error_line(capsys, word)


def test_mwork_on_what_cannot_be_measured(model, tmp_path, corpora, capsys):
    pml.NeuronSet({"ffn": torch.ones(2, 37, dtype=torch.bool)}).save(tmp_path / "fr.safetensors")
    pml.NeuronSet({"ffn": torch.ones(2, 36, dtype=torch.bool)}).save(tmp_path / "other.safetensors")
    given = [argument for name, path in corpora.items() for argument in ("--text", f"{name}={path}")]
    one, spans = ["--neurons", f"fr={tmp_path / 'fr.safetensors'}"], ["--understanding", "1", "--generation", "1"]
    for arguments, words in (
        ((*one, *given, "--understanding", "2", "--generation", "1"), ("first of the 2 layers",)),
        (("--neurons", f"fr={tmp_path / 'other.safetensors'}", *given, *spans), ("set of 'fr'", "another model")),
        ((*one, *given[:2], *spans), ("'de' in the task",)),
        ((*one, *given, *spans, "--metric", "bleu"), ("metric must be one of",)),
        ((*one, "--xcopa", f"de={tmp_path / 'x.jsonl'}", *spans), ("no such file",)),
    ):
        assert mwork(model, tmp_path, *arguments) == 1
        assert_error_line(capsys, *words)
        assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_what_parts_of_the_packaged_model_are_for(tmp_path):
    """Own neurons of the first and last layers matter to their languages, random ones and those of English's text do not."""
    assert run("mwork", "--demo", "--out", tmp_path / "out", "--limit", 6, "--seeds", 2) == 0
    table = pandas.read_csv(tmp_path / "out" / "mwork.csv")
    own, drawn = table[table["neurons"] == "own"], table[table["neurons"].str.startswith("random")]
    everywhere = own[~own[["understanding", "attention", "ffn", "generation"]].any(axis=1)].iloc[0]
    assert everywhere["delta"] > 0.2 and everywhere["d_others"] < -0.2
    assert (drawn["delta"].abs() < everywhere["delta"] / 4).all(), table
    assert {"search.csv", "mwork.png", "run.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
