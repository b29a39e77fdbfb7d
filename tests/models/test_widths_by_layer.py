"""Models whose layers differ in width, from texts to files: measured, selected, deactivated, counted and trained."""

import pytest
import torch

import pymultiling as pml
from pymultiling.methods.benchmark import time_forwards
from pymultiling.models.decoder import Decoder
from pymultiling.results import plots
from pymultiling.results.report.run_folder import Results
from pymultiling.results.report.sections import sets as sections
from tests.probes.test_masking import difference
from tests.support.anatomy import layer_sizes, layers_of
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model, with_zeroed_neurons
from tests.support.tiny_text import texts, tiny_tokenizer

NAMES = ("qwen2_moe-half-dense", "qwen3_next-half-dense")
CORPORA = {language: texts(language) for language in ("fr", "de")}


def widths_of(model) -> dict[str, tuple[int, ...]]:
    layers = [layer_sizes(model.config, layer) for layer in range(model.config.num_hidden_layers)]
    return {site: tuple(layer[site] for layer in layers) for site in pml.SITES}


def differing_widths(model) -> dict[str, tuple[int, ...]]:
    return {site: widths for site, widths in widths_of(model).items() if len(set(widths)) > 1}


@pytest.mark.parametrize("name", NAMES)
def test_a_detection_knows_the_widths_and_is_read_again(name, tmp_path):
    model = tiny_model(name)
    detection = pml.detect(model, tiny_tokenizer(), CORPORA, select=pml.TopK(0.2, 0.2, share=0.5), progress=False)
    assert "ffn" in differing_widths(model)
    for language in CORPORA:
        neurons, statistics = detection.neurons[language], detection.statistics[language]
        assert neurons.widths == statistics.widths == detection.specific()[language].widths == differing_widths(model)
        for layer, width in enumerate(widths_of(model)["ffn"]):
            assert statistics.top["ffn"][4, layer].sum() == statistics.documents * max(1, round(0.1 * width))
    detection.save(tmp_path / "found")
    loaded = pml.Detection.load(tmp_path / "found")
    assert all(loaded.neurons[language] == detection.neurons[language] for language in CORPORA)
    assert loaded.statistics["fr"].widths == differing_widths(model)
    plots.neurons_by_layer(loaded.neurons, "title")
    figures = sections.figures(Results(tmp_path / "found", tmp_path, "found", {"command": "detect"}))
    names = [column.name for column in figures[0].columns]
    for row in (dict(zip(names, row)) for row in figures[0].rows):
        count = detection.neurons[row["language"]].count("layer")[row["site"]][row["layer"]]
        width = widths_of(model)[row["site"]][row["layer"]]
        assert row["neurons"] == count and row["share"] == pytest.approx(count / max(width, 1), abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_counts_know_the_widths(name):
    model = tiny_model(name)
    counts = pml.activations(model, tiny_tokenizer(), CORPORA, progress=False)
    assert counts["fr"].layer_widths == widths_of(model)["ffn"]
    assert not counts["fr"].active[~counts["fr"].is_neuron].any() and (counts["fr"].proportion > 0.01).all()
    plots.activations(counts)
    for neurons in pml.lape(counts, top=0.1, bar=0.5).values():
        assert neurons.layer_widths("ffn") == widths_of(model)["ffn"] and len(neurons)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_neurons_are_set_to_their_means(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch()
    sites = ("q", "k", "v", "o")
    neurons = random_neurons(model, sites=sites)
    mean = pml.mean_activations(model, tiny_tokenizer(), CORPORA["fr"], sites=pml.SITES)
    assert {site: tuple(values.shape) for site, values in mean.items()} == {
        site: (len(widths), max(widths)) for site, widths in widths_of(model).items()
    }
    ones = {site: torch.ones_like(values) for site, values in mean.items()}
    with pml.deactivate(model, neurons, mean=ones):
        changed = model(**batch, use_cache=False).logits
    assert difference(changed, with_zeroed_neurons(model, neurons)(**batch, use_cache=False).logits) > 1e-3


def test_members_beyond_a_layer_are_refused():
    model = tiny_model("qwen2_moe-half-dense")
    mask = torch.zeros(2, 52, dtype=torch.bool)
    mask[0, 44] = True
    with pytest.raises(ValueError, match=r"the set has neuron 44 of ffn in layer 0, which has 44 of them"):
        pml.deactivate(model, pml.NeuronSet({"ffn": mask})).__enter__()
    drawn = random_neurons(model).random_like(3, anywhere=True)
    Decoder(model).check_set(drawn)


def test_the_benchmark_runs():
    names = [forward.name for forward in time_forwards(tiny_model("qwen2_moe-half-dense"), length=8, rounds=1)]
    assert len(names) == 6


def test_neurons_are_trained_and_their_differences_read_again(tmp_path):
    """A hand-made model, because mixtures of experts do not train neurons of the FFN."""
    model = tiny_model("llama", mlp_bias=False)
    mlp = layers_of(model)[1].mlp
    for name in ("gate_proj", "up_proj"):
        setattr(mlp, name, torch.nn.Linear(32, 11, bias=False))
    mlp.down_proj = torch.nn.Linear(11, 32, bias=False)
    decoder = Decoder(model)
    assert decoder.layer_widths()["ffn"] == (37, 11)
    neurons = pml.NeuronSet({"ffn": torch.arange(37).repeat(2, 1) % 5 == 0}, None)
    with pytest.raises(ValueError, match=r"has neuron 15 of ffn in layer 1, which has 11 of them"):
        pml.train_only(model, neurons)
    mask = neurons.sites["ffn"].clone()
    mask[1, 11:] = False
    neurons = pml.NeuronSet({"ffn": mask}, decoder.layer_widths())
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    tuning = pml.train_only(model, neurons)
    for parameter in tuning.parameters():
        parameter.data += 0.1
    tuning.save(tmp_path / "a.safetensors")
    tuning.remove()
    again = pml.NeuronTuning.load(model, tmp_path / "a.safetensors")
    assert again.neurons.widths == {"ffn": (37, 11)}
    again.merge()
    changed = model.model.layers[1].mlp.up_proj.weight != before["model.layers.1.mlp.up_proj.weight"]
    assert changed.any(1).nonzero().flatten().tolist() == [0, 5, 10]
