"""--chat-template of detect, count, ablate, tune and lens gives what chat_template=True gives in Python."""

import copy
import json

import pandas
import pytest
import torch
from transformers import AutoModelForCausalLM

import pymultiling as pml
from tests.data.test_chat import chat_tokenizer
from tests.support.command_line import SMALL_BATCHES, assert_error_line, detect, repeat, run
from tests.support.tiny_models import tiny_model
from tests.support.tiny_text import save_model

OPTIONS = {"max_length": 16, "batch_tokens": 64, "progress": False, "chat_template": True}


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("chat_model"), tiny_model("llama", pad_token_id=None))
    chat_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(chat_model):
    return AutoModelForCausalLM.from_pretrained(chat_model), chat_tokenizer()


def test_detect(chat_model, loaded, corpora, tmp_path):
    assert detect(chat_model, corpora, tmp_path / "out", "--chat-template", "--share", 0.5) == 0
    truth = pml.detect(*loaded, corpora, select=pml.TopK(share=0.5), **OPTIONS)
    found = pml.Detection.load(tmp_path / "out")
    assert found.neurons == truth.neurons
    for language, statistics in truth.statistics.items():
        assert found.statistics[language].rule == statistics.rule
        assert all(torch.equal(found.statistics[language].sum[site], x) for site, x in statistics.sum.items())
    assert json.loads((tmp_path / "out" / "run.json").read_text())["arguments"]["chat_template"] is True


def test_count_and_ablate(chat_model, loaded, corpora, tmp_path, capsys):
    words = ["--model", chat_model, *SMALL_BATCHES]
    counted = repeat("--corpus", corpora)
    assert run("count", *words, *counted, "--chat-template", "--out", tmp_path / "counted") == 0
    truth = pml.activations(*loaded, corpora, **OPTIONS)
    for language, counts in truth.items():
        found = pml.ActivationStatistics.load(tmp_path / "counted" / "counts" / f"{language}.safetensors")
        assert found.tokens == counts.tokens and torch.equal(found.active, counts.active)

    assert run("count", *words, *counted, "--out", tmp_path / "plain") == 0
    mixed = repeat("--counts", {"fr": tmp_path / "plain", "de": tmp_path / "counted"})
    capsys.readouterr()
    assert run("classify", *mixed, "--out", tmp_path / "classes") == 1
    assert_error_line(
        capsys, "the counts of fr and de are of different texts", "texts as messages of the chat template"
    )

    neurons = pml.NeuronSet({"ffn": torch.rand(2, 37) < 0.2})
    (tmp_path / "sets").mkdir()
    neurons.save(tmp_path / "sets" / "fr.safetensors")
    mean = ["--mean", corpora["de"], "--random", 0]
    texts = repeat("--texts", corpora)
    options = [*words, *texts, *mean, "--chat-template", "--neurons", tmp_path / "sets", "--out", tmp_path / "ablated"]
    assert run("ablate", *options) == 0
    means = pml.mean_activations(*loaded, corpora["de"], **OPTIONS)
    perplexities = pml.ablation_matrix(*loaded, {"fr": neurons}, corpora, mean=means, **OPTIONS)
    table = pandas.read_csv(tmp_path / "ablated" / "perplexity.csv", index_col=0)
    for name in ("none", "fr"):
        assert table.loc[name].tolist() == pytest.approx(perplexities.loc[name].tolist())


def test_tune(chat_model, loaded, corpora, tmp_path):
    pytest.importorskip("accelerate", reason="Trainer needs accelerate")
    words = ["--model", chat_model, "--texts", corpora["fr"], "--freeze", 0, *SMALL_BATCHES]
    heldout = ["--heldout", f"de={corpora['de']}"]
    assert run("tune", *words, *heldout, "--chat-template", "--out", tmp_path / "out") == 0
    before = pml.perplexity(*loaded, corpora["de"], **OPTIONS)
    table = pandas.read_csv(tmp_path / "out" / "perplexity.csv", index_col=0)
    assert table.loc["de", "before"] == pytest.approx(before)
    options = {name: OPTIONS[name] for name in ("max_length", "progress", "chat_template")}
    losses = pml.fine_tune(copy.deepcopy(loaded[0]), loaded[1], corpora["fr"], **options).log["loss"]
    assert pandas.read_csv(tmp_path / "out" / "log.csv")["loss"].tolist() == pytest.approx(losses.tolist())


def test_lens_counts_the_texts_tokens(chat_model, corpora, tmp_path, monkeypatch):
    """Tokens of this tokenizer have no language, so that the counts are compared, before they become shares."""
    pytest.importorskip("lingua")
    counts = []

    def keep(texts, *_, **__):
        counts.append({name: table.clone() for name, (table, _) in texts.items()})
        raise KeyboardInterrupt

    monkeypatch.setattr("pymultiling.methods.lens.lens_tables", keep)
    words = ["--model", chat_model, *SMALL_BATCHES, *repeat("--texts", corpora), "--languages", "en,fr", "--top", 3]
    assert run("lens", *words, "--chat-template", "--out", tmp_path / "out") == 130
    for name, path in corpora.items():
        words_of = sum(min(len(line.split()), 16 - 3) for line in path.read_text().splitlines())
        assert counts[0][name].sum(1).tolist() == [3 * words_of] * 3


def test_a_tokenizer_without_template_is_refused_with_the_way_out(model, corpora, tmp_path, capsys):
    assert detect(model, corpora, tmp_path / "out", "--chat-template") == 1
    assert_error_line(capsys, "the tokenizer has no chat template", "leave out chat_template (--chat-template)")


def test_counts_of_different_positions_are_not_classified_together(tmp_path, capsys):
    for name, positions in (("fr", "all"), ("de", "last")):
        counts = pml.ActivationStatistics(torch.ones(5, 80, dtype=torch.int64), 1000)
        counts.save(tmp_path / f"{name}.safetensors", positions=positions)
    assert run("classify", "--counts", tmp_path, "--out", tmp_path / "classes") == 1
    assert_error_line(capsys, "the counts of de and fr are of different positions (last; all)")
