import json

import pandas
import pytest
import torch
from transformers import AutoModelForCausalLM

import pymultiling as pml
from tests.support.command_line import assert_error_line, detect, repeat, run
from tests.support.tiny_text import texts, tiny_tokenizer


def mwork(model, tmp_path, *options) -> int:
    settings = ["--batch-tokens", "256", "--english", "de"]
    return run("mwork", "--model", model, "--out", tmp_path / "out", *settings, *options)


def test_writes_the_table_that_mwork_gives(model, tmp_path, corpora, capsys):
    assert detect(model, corpora, tmp_path / "found", "--share", "0.1") == 0
    task_options = repeat("--text", corpora)
    sets = ["--neurons", tmp_path / "found" / "neurons", "--metric", "likelihood", "--limit", "4", "--seeds", "2"]
    assert mwork(model, tmp_path, *sets, *task_options, "--understanding", "1", "--generation", "1") == 0
    table = pandas.read_csv(tmp_path / "out" / "mwork.csv")
    assert table["neurons"][0] == "none" and set(table["task"]) == {"continuation"}
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), tiny_tokenizer()
    neurons = pml.NeuronSet.load(tmp_path / "found" / "neurons" / "fr.safetensors")
    task = pml.tasks.continuation({name: texts(name) for name in corpora}).judged_by("likelihood").only(limit=4)
    spans = {"understanding": range(1), "generation": range(1, 2)}
    truth = pml.mwork(loaded, tokenizer, {"fr": neurons}, task, english="de", seeds=(0, 1), **spans)
    assert table["delta"].tolist() == pytest.approx(truth["delta"].tolist(), abs=1e-5)
    printed = capsys.readouterr().out
    assert "Understanding layers: 0 to 0; generation layers: 1 to 1; of 2." in printed and "S-ATTN" in printed
    assert (tmp_path / "out" / "mwork.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "run.json").read_text())["tasks"] == {"continuation": "likelihood"}

    assert mwork(model, tmp_path, *sets, *task_options, "--search", "fr") == 0
    assert pandas.read_csv(tmp_path / "out" / "search.csv")["part"].tolist() == ["understanding", "generation"]


def test_published_tasks_are_read_from_their_files(model, tmp_path):
    records = {
        "msvamp.jsonl": [{"m_query": "w3 w4", "response": "7.0"}],
        "exemplars.jsonl": [{"lang": language, "question": "w3: w4", "answer": "w5: 7"} for language in ("fr", "de")],
        "xnli.jsonl": [
            {"language": language, "sentence1": "w3", "sentence2": "w4", "gold_label": "neutral"}
            for language in ("fr", "de")
        ],
        "boolq.jsonl": [{"question": "w3", "passage": "w4 w5", "answer": True}],
    }
    for name, lines in records.items():
        (tmp_path / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    pml.NeuronSet({"ffn": torch.ones(2, 37, dtype=torch.bool)}).save(tmp_path / "fr.safetensors")
    options = ["--neurons", f"fr={tmp_path / 'fr.safetensors'}", "--metric", "likelihood", "--seeds", "1"]
    options += ["--xnli", tmp_path / "xnli.jsonl", "--exemplars", tmp_path / "exemplars.jsonl", "--shots", "1"]
    for name in ("msvamp", "boolq"):
        options += repeat(f"--{name}", dict.fromkeys(("fr", "de"), tmp_path / f"{name}.jsonl"))
    assert mwork(model, tmp_path, *options, "--understanding", "1", "--generation", "1") == 0
    assert set(pandas.read_csv(tmp_path / "out" / "mwork.csv")["task"]) == {"MSVAMP", "XNLI", "BoolQ"}


@pytest.mark.parametrize(
    "options, text",
    [
        ([], "--neurons is required"),
        (["--neurons", "x"], "no task is given"),
        (["--neurons", "x", "--text", "fr=a"], "without --search --understanding is required"),
        (["--neurons", "x", "--mgsm", "m.jsonl"], "with --mgsm --exemplars is required"),
        (["--neurons", "x", "--msvamp", "fr=m.jsonl"], "with --msvamp --exemplars is required"),
        (["--neurons", "x", "--xquad", "m.jsonl"], "with --xquad --contexts is required"),
        (["--neurons", "x", "--xlsum", "fr=a", "--xlsum", "fr=b"], "more than once"),
        (["--neurons", "x", "--text", "fr=a", "--search", "fr", "--generation", "1"], "not allowed with --generation"),
        (["--demo"], "--demo: not allowed with --model"),
    ],
)
def test_rejects_missing_and_contradictory_options(model, tmp_path, capsys, options, text):
    assert mwork(model, tmp_path, *options) == 2
    assert_error_line(capsys, text)


def test_rejects_parts_sets_and_tasks_that_cannot_be_measured(model, tmp_path, corpora, capsys):
    pml.NeuronSet({"ffn": torch.ones(2, 37, dtype=torch.bool)}).save(tmp_path / "fr.safetensors")
    pml.NeuronSet({"ffn": torch.ones(2, 36, dtype=torch.bool)}).save(tmp_path / "foreign.safetensors")
    text_options = repeat("--text", corpora)
    sets = ["--neurons", f"fr={tmp_path / 'fr.safetensors'}"]
    spans = ["--understanding", "1", "--generation", "1"]
    for options, messages in (
        ((*sets, *text_options, "--understanding", "2", "--generation", "1"), ("first of the 2 layers",)),
        (
            ("--neurons", f"fr={tmp_path / 'foreign.safetensors'}", *text_options, *spans),
            ("set of 'fr'", "another model"),
        ),
        ((*sets, *text_options[:2], *spans), ("'de' in the task",)),
        ((*sets, *text_options, *spans, "--metric", "bleu"), ("metric must be one of",)),
        ((*sets, "--xcopa", f"de={tmp_path / 'x.jsonl'}", *spans), ("no such file",)),
    ):
        assert mwork(model, tmp_path, *options) == 1
        assert_error_line(capsys, *messages)
        assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_own_neurons_matter_in_the_demo_model_and_random_ones_do_not(tmp_path):
    """With own neurons deactivated everywhere the other languages lose more than English does. With random neurons the
    difference is less than a quarter of that.
    """
    assert run("mwork", "--demo", "--out", tmp_path / "out", "--limit", 6, "--seeds", 2) == 0
    table = pandas.read_csv(tmp_path / "out" / "mwork.csv")
    own, random = table[table["neurons"] == "own"], table[table["neurons"].str.startswith("random")]
    everywhere = own[~own[["understanding", "attention", "ffn", "generation"]].any(axis=1)].iloc[0]
    assert everywhere["delta"] > 0.2 and everywhere["d_others"] < -0.2
    assert (random["delta"].abs() < everywhere["delta"] / 4).all(), table
    assert {"search.csv", "mwork.png", "run.json", "report.html"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
