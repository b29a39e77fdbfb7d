import json

import pandas
import pytest
from transformers import AutoModelForCausalLM

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.passes import batch_size
from tests.support.command_line import SMALL_BATCHES, assert_error_line, assert_folder_holds, repeat, run
from tests.support.tiny_text import WORDS, texts, tiny_tokenizer, write_text


def count(model, corpora, out, *options) -> int:
    corpus_options = repeat("--corpus", corpora)
    return run("count", "--model", model, *corpus_options, "--out", out, *SMALL_BATCHES, *options)


@pytest.mark.parametrize("positions", ["all", "last"])
def test_writes_the_counts_that_activations_gives(model, tmp_path, corpora, capsys, positions):
    out = tmp_path / "out"
    assert count(model, corpora, out, "--positions", positions) == 0
    printed = capsys.readouterr()
    assert (
        "\nactive: the fraction of the FFN neurons that are active in a position; of the top 1%: how much"
        in printed.out
    )
    assert "fr: texts 6" in printed.out and "fr: counting (1 of 2): 6 documents" in printed.err
    assert {path.name for path in out.iterdir()} == {
        "counts", "proportion.csv", "most_active.csv", "activations.png", "run.json", "report.html",
    }  # fmt: skip
    loaded = AutoModelForCausalLM.from_pretrained(model)
    truth = pml.activations(loaded, tiny_tokenizer(), corpora, positions=positions, max_length=16, progress=False)
    table = pandas.read_csv(out / "proportion.csv", index_col="layer")
    curves = pandas.read_csv(out / "most_active.csv", index_col="rank")
    for language in corpora:
        counts = pml.ActivationStatistics.load(out / "counts" / f"{language}.safetensors")
        assert counts.tokens == truth[language].tokens and (counts.active == truth[language].active).all()
        assert curves[language].tolist() == counts.most_active().counts.tolist()
        assert table[language].tolist() == pytest.approx(counts.proportion.tolist())
    assert (out / "activations.png").stat().st_size > 10_000
    record = json.loads((out / "run.json").read_text())
    assert record["texts"]["fr"]["texts"] == 6 and record["arguments"]["positions"] == positions


@pytest.mark.parametrize("command", ["count", "detect"])
def test_batch_tokens_auto_lets_the_memory_decide(model, tmp_path, corpora, monkeypatch, command):
    """The memory is set so that every document is a batch of its own."""
    monkeypatch.setattr(batch_size, "free_memory", lambda device: 0)
    sizes, forward = [], Decoder.forward
    monkeypatch.setattr(Decoder, "forward", lambda self, ids, mask: sizes.append(len(ids)) or forward(self, ids, mask))
    files = repeat("--corpus", corpora)
    options = (
        "--model",
        model,
        *files,
        "--out",
        tmp_path / "out",
        *SMALL_BATCHES,
        "--batch-tokens",
        "auto",
        "--no-verify",
        "--pack",
        "none",
    )
    assert run(command, *options) == 0
    assert sizes == [1] * sum(len(path.read_text().splitlines()) for path in corpora.values())
    assert json.loads((tmp_path / "out" / "run.json").read_text())["arguments"]["batch_tokens"] == "auto"


def test_batch_tokens_are_a_number_or_auto(model, tmp_path, corpora, capsys):
    assert count(model, corpora, tmp_path / "out", "--batch-tokens", "most") == 2
    assert_error_line(capsys, "'most' is not a whole number of at least 1, nor auto")


def test_counts_as_many_positions_as_the_responses_have_tokens(model, tmp_path):
    records = [{"prompt": prompt, "response": f" {response}"} for prompt, response in zip(texts("fr"), texts("de"))]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    assert count(model, {"fr": path}, tmp_path / "out", "--positions", "response", "--max-length", "64") == 0
    counts = pml.ActivationStatistics.load(tmp_path / "out" / "counts" / "fr.safetensors")
    assert counts.tokens == sum(len(record["response"].split()) for record in records)


def test_rejects_wrong_corpora_and_options(model, tmp_path, corpora, capsys):
    before = [path.name for path in tmp_path.iterdir()]
    assert count(model, corpora, tmp_path / "out", "--positions", "response") == 1
    assert_error_line(capsys, corpora["fr"], "has no prompt and response")
    empty = write_text(tmp_path / "empty.txt", [" "])
    assert count(model, {"fr": empty}, tmp_path / "out") == 1
    assert_error_line(capsys, "'fr' has no positions to count: texts 1, empty 1")
    assert count(model, {}, tmp_path / "out", "--corpus", f"fr={empty}", "--corpus", f"fr={empty}") == 2
    assert_error_line(capsys, "'fr' is given more than once")
    assert count(model, corpora, tmp_path / "out", "--positions", "response", "--pack", "8") == 2
    assert_error_line(capsys, "--pack: not allowed with --positions response")
    assert_folder_holds(tmp_path, *before, "empty.txt")


def test_commands_read_the_encoding(model, tmp_path, capsys):
    path = tmp_path / "fr.txt"
    path.write_bytes("".join(f"{word} {word}\n" for word in WORDS).encode("utf-16"))
    arguments = ["count", "--model", model, "--corpus", f"fr={path}", "--out", tmp_path / "out", *SMALL_BATCHES]
    assert run(*arguments) == 1
    assert_error_line(capsys, "give --encoding utf-16")
    assert run(*arguments, "--encoding", "utf-16") == 0
    assert "texts 58" in capsys.readouterr().out
    assert run(*arguments, "--encoding", "gbx") == 2
