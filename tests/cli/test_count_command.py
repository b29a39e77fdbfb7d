import json

import pandas
import pytest
from transformers import AutoModelForCausalLM

import pymultiling as pml
from tests.support.command_line import QUICK, assert_nothing_written, assert_one_sentence, run
from tests.support.tiny_text import texts, tiny_tokenizer, write_text


def count(model, corpora, out, *more) -> int:
    given = [argument for name, path in corpora.items() for argument in ("--corpus", f"{name}={path}")]
    return run("count", "--model", model, *given, "--out", out, *QUICK, *more)


@pytest.mark.parametrize("positions", ["all", "last"])
def test_count(model, tmp_path, corpora, capsys, positions):
    out = tmp_path / "out"
    assert count(model, corpora, out, "--positions", positions) == 0
    printed = capsys.readouterr()
    assert "fr: texts 6" in printed.out and "fr: counting: 6 documents" in printed.err
    assert {path.name for path in out.iterdir()} == {
        "counts", "proportion.csv", "most_active.csv", "activations.png", "run.json",
    }  # fmt: skip
    loaded = AutoModelForCausalLM.from_pretrained(model)
    truth = pml.activations(loaded, tiny_tokenizer(), corpora, positions=positions, max_length=16, progress=False)
    table = pandas.read_csv(out / "proportion.csv", index_col="layer")
    curves = pandas.read_csv(out / "most_active.csv", index_col="rank")
    for language in corpora:
        found = pml.ActivationStatistics.load(out / "counts" / f"{language}.safetensors")
        assert found.tokens == truth[language].tokens and (found.active == truth[language].active).all()
        assert curves[language].tolist() == found.most_active().counts.tolist()
        assert table[language].tolist() == pytest.approx(found.proportion.tolist())
    assert (out / "activations.png").stat().st_size > 10_000
    record = json.loads((out / "run.json").read_text())
    assert record["texts"]["fr"]["texts"] == 6 and record["arguments"]["positions"] == positions


def test_responses(model, tmp_path):
    rows = [{"prompt": prompt, "response": f" {response}"} for prompt, response in zip(texts("fr"), texts("de"))]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert count(model, {"fr": path}, tmp_path / "out", "--positions", "response", "--max-length", "64") == 0
    found = pml.ActivationStatistics.load(tmp_path / "out" / "counts" / "fr.safetensors")
    assert found.tokens == sum(len(row["response"].split()) for row in rows)


def test_wrong_corpora(model, tmp_path, corpora, capsys):
    before = [path.name for path in tmp_path.iterdir()]
    assert count(model, corpora, tmp_path / "out", "--positions", "response") == 1
    assert_one_sentence(capsys, corpora["fr"], "has no prompt and response")
    empty = write_text(tmp_path / "empty.txt", [" "])
    assert count(model, {"fr": empty}, tmp_path / "out") == 1
    assert_one_sentence(capsys, "'fr' has no positions to count: texts 1, empty 1")
    assert count(model, {}, tmp_path / "out", "--corpus", f"fr={empty}", "--corpus", f"fr={empty}") == 2
    assert_one_sentence(capsys, "'fr' is given more than once")
    assert count(model, corpora, tmp_path / "out", "--positions", "response", "--pack", "8") == 2
    assert_one_sentence(capsys, "--pack: not allowed with --positions response")
    assert_nothing_written(tmp_path, *before, "empty.txt")
