"""Importance by CUDA graphs equals importance without them, on the CPU with a stand-in for graphs."""

import time
from statistics import median

import pytest
import torch

import pymultiling as pml
from pymultiling.probes.importance import ImportanceProbe
from pymultiling.probes.importance_values import Importance
from tests.support.fake_device import fake_device, move
from tests.support.graph_recorder import graphs_on_the_cpu
from tests.support.tiny_models import tiny_batch, tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("error:CUDA graphs")
# A Llama, norms behind the sublayers, norms of heads, a sliding window, a fused projection, an FFN on the layer itself.
NAMES = ("llama", "gemma2", "qwen3", "mistral", "gpt_neox", "opt")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, which records CUDA graphs")


def assert_same(measured: Importance, expected: Importance) -> None:
    assert list(measured) == list(expected) and list(measured.error) == list(expected.error)
    assert all(torch.equal(measured[site], expected[site]) for site in expected)
    assert all(torch.equal(measured.error[site], expected.error[site]) for site in expected.error)


@pytest.mark.parametrize("options", [{}, {"qk": "fast"}, {"score": "released"}, {"sites": ("v", "ffn"), "fused": True}])
@pytest.mark.parametrize("name", NAMES)
def test_every_batch_of_a_shape_gets_its_own_values(name, options):
    model = tiny_model(name)
    batches = [tiny_batch(seed=seed) for seed in range(4)]
    with ImportanceProbe(model, **options) as probe:
        expected = [probe.measure(**batch) for batch in batches]
    with graphs_on_the_cpu() as recordings, ImportanceProbe(model, graphs=True, **options) as probe:
        measured = [probe.launch(**batch)[0] for batch in batches]
    for a, b in zip(measured, expected):
        assert_same(a, b)
    assert recordings.made == 1 and recordings.replays == 3


def test_padding_shows_in_the_replay_of_another_padded_batch():
    """A replay takes lengths from its own batch: documents of other lengths in the same shape."""
    model = tiny_model("llama")
    batches = [tiny_batch(lengths) for lengths in ((9, 4, 7), (9, 8, 1), (9, 4, 7), (2, 9, 3))]
    with graphs_on_the_cpu() as recordings, ImportanceProbe(model, graphs=True) as probe:
        for batch in batches:
            assert_same(probe.measure(**batch), pml.importance(model, **batch))
    assert recordings.made == 1 and recordings.replays == 3


def test_full_and_padded_batches_of_a_shape_are_recorded_apart():
    model = tiny_model("llama")
    full, padded = tiny_batch((9, 9)), tiny_batch((9, 4))
    with graphs_on_the_cpu() as recordings, ImportanceProbe(model, graphs=True) as probe:
        for _ in range(3):
            for batch in (full, padded):
                assert_same(probe.measure(**batch), pml.importance(model, **batch))
    assert recordings.made == 2 and recordings.replays == 4


def test_padding_on_the_left_is_reported_once_and_not_recorded():
    model, batch = tiny_model("llama"), tiny_batch((9, 4), "left")
    expected = pml.importance(model, **batch)
    with graphs_on_the_cpu() as recordings, ImportanceProbe(model, graphs=True) as probe:
        with pytest.warns(UserWarning, match="with padding on the left"):
            assert_same(probe.measure(**batch), expected)
        for _ in range(3):
            assert_same(probe.measure(**batch), expected)
    assert recordings.made == 0


def test_a_failed_recording_is_reported_once_and_the_values_stay():
    model, batch = tiny_model("llama"), tiny_batch()
    expected = pml.importance(model, **batch)
    with graphs_on_the_cpu() as recordings, ImportanceProbe(model, graphs=True) as probe:
        recordings.error = RuntimeError("called a synchronizing CUDA operation")
        assert_same(probe.measure(**batch), expected)
        with pytest.warns(UserWarning, match="a recording failed: called a synchronizing"):
            assert_same(probe.measure(**batch), expected)
        for _ in range(3):
            assert_same(probe.measure(**batch), expected)
    assert recordings.made == recordings.kept() == 0


def test_recordings_end_with_the_block():
    """They hold what was computed from the weights, which may change afterwards."""
    model, batch = tiny_model("llama"), tiny_batch()
    probe = ImportanceProbe(model, graphs=True)
    with graphs_on_the_cpu() as recordings:
        with probe:
            for _ in range(2):
                probe.measure(**batch)
            assert recordings.kept() == 1
        assert recordings.kept() == 0
        with torch.no_grad():
            model.model.layers[0].mlp.down_proj.weight.mul_(2)
        with probe:
            for _ in range(3):
                assert_same(probe.measure(**batch), pml.importance(model, **batch))


def test_a_model_on_the_cpu_is_reported_and_measured():
    model, batch = tiny_model("llama"), tiny_batch()
    probe = ImportanceProbe(model, graphs=True)
    with pytest.warns(UserWarning, match="CUDA graphs are not used, because the model is on the device 'cpu'"):
        probe.__enter__()
    for _ in range(3):
        assert_same(probe.measure(**batch), pml.importance(model, **batch))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_recorded_neither_waits_nor_copies_from_the_host(name):
    """The fake device counts both; a recording can hold neither."""
    model, batch = tiny_model(name), tiny_batch()
    with fake_device() as device, graphs_on_the_cpu() as recordings:
        move(model)
        with ImportanceProbe(model, graphs=True, fused=True) as probe:
            for _ in range(3):
                probe.launch(**batch)
    assert recordings.made == 1 and recordings.replays == 2
    assert device.why == []


def test_detect_finds_the_same_with_graphs():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    corpora = {language: texts(language, (9, 4, 7, 12, 3, 8) * 4) for language in ("fr", "de")}
    options = dict(batch_tokens=20, pack=8, workers=0, progress=False)
    expected = pml.detect(model, tokenizer, corpora, **options)
    with graphs_on_the_cpu() as recordings:
        detection = pml.detect(model, tokenizer, corpora, graphs=True, **options)
    assert recordings.made >= 1 and recordings.replays > 3 and recordings.kept() == 0
    for language in corpora:
        assert detection.neurons[language] == expected.neurons[language]
        for name in ("sum", "minimum", "votes"):
            a, b = (getattr(x.statistics[language], name) for x in (detection, expected))
            assert all(torch.equal(a[site], b[site]) for site in b)


@needs_gpu
@pytest.mark.parametrize("options", [{}, {"qk": "fast"}, {"score": "released"}])
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_the_same_bits_with_graphs(name, options):
    model = tiny_model(name, torch.bfloat16).cuda()
    batches = [tiny_batch(lengths, seed=seed) for seed in range(3) for lengths in ((9, 4, 7), (9, 9, 9), (5, 5))]
    with ImportanceProbe(model, **options) as probe:
        expected = [probe.measure(**batch) for batch in batches]
    with ImportanceProbe(model, graphs=True, **options) as probe:
        launched = [probe.launch(**batch) for batch in batches]
    for (measured, require_finite), other in zip(launched, expected):
        require_finite()
        assert_same(measured, other)


@needs_gpu
@pytest.mark.parametrize("name", ["mixtral", "olmo2"])
def test_a_gpu_runs_without_graphs_what_waits_for_it(name):
    """Experts one after the other, and norms over all heads."""
    model, batch = tiny_model(name).cuda(), tiny_batch()
    expected = pml.importance(model, **batch)
    with ImportanceProbe(model, graphs=True) as probe:
        assert_same(probe.measure(**batch), expected)
        with pytest.warns(UserWarning, match="CUDA graphs are not used"):
            assert_same(probe.measure(**batch), expected)
        assert_same(probe.measure(**batch), expected)


@needs_gpu
def test_a_replay_takes_the_host_less_than_two_milliseconds():
    """With five sites in 32 layers, whose launches one by one take ten times as long."""
    model = tiny_model("llama", torch.bfloat16, num_hidden_layers=32).cuda()
    batch, seconds = tiny_batch((32, 32)), []
    with ImportanceProbe(model, graphs=True) as probe:
        for _ in range(12):
            torch.cuda.synchronize()
            start = time.perf_counter()
            require_finite = probe.launch(**batch)[1]
            seconds.append(time.perf_counter() - start)
            require_finite()
    assert median(seconds[2:]) < 2e-3
