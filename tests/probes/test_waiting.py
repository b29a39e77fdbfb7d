"""How often the host waits for the device, counted on a fake device and, where there is one, forbidden on a GPU.

Every wait leaves a GPU without work until Python has launched more.
"""

import pytest
import torch

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.activation_sums import ActivationSumProbe
from pymultiling.probes.importance import ImportanceProbe
from tests.support.fake_device import DEVICE, DeviceTensor, fake_device, move
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer

# A Llama, norms behind the sublayers, norms of heads, a sliding window, a fused projection, an FFN on the layer itself.
NAMES = ("llama", "gemma2", "qwen3", "mistral", "gpt_neox", "opt")


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_importance_waits_once_for_a_batch_at_its_end(name, fused):
    model, batch = tiny_model(name), tiny_batch()
    expected = pml.importance(model, **batch)
    with fake_device() as device:
        with ImportanceProbe(move(model), fused=fused) as probe:
            importance, require_finite = probe.launch(**batch)
        assert device.why == []
        require_finite()
        assert device.why == ["HostCopy.wait"]
    for site, values in importance.items():
        assert values.device == DEVICE
        # The fake device has no fused attention, so its probabilities are rounded differently.
        torch.testing.assert_close(values.values, expected[site], rtol=1e-3, atol=1e-4 * expected[site].max().item())


def test_heads_behind_a_layer_norm_wait_once_for_each_document_and_layer():
    """The operator has no kernel, and its reference reads where the tokens of a document are."""
    model, batch = tiny_model("phi-norms"), tiny_batch()
    with fake_device() as device, ImportanceProbe(move(model), ("q", "k")) as probe:
        probe.launch(**batch)
    assert device.why == ["aten.nonzero.default"] * 2 * len(batch["input_ids"])


def test_a_mask_on_the_device_is_read_once_before_the_forward():
    model, batch = tiny_model("llama"), tiny_batch()
    with fake_device() as device, ImportanceProbe(move(model)) as probe:
        probe.launch(DeviceTensor(batch["input_ids"]), DeviceTensor(batch["attention_mask"]))
    assert device.why == ["aten._to_copy.default"]


@pytest.mark.parametrize("name", NAMES)
def test_counts_and_sums_of_activations_are_launched_without_waiting(name):
    model, batch = tiny_model(name), tiny_batch()
    is_token = batch["attention_mask"].bool()
    with fake_device() as device:
        move(model)
        ActivationProbe(model).launch(**batch, counted=is_token)
        ActivationSumProbe(model).measure(**batch)
    assert device.why == []


@pytest.mark.parametrize("rows", [None, [1, 0]])
@pytest.mark.parametrize("name", NAMES)
def test_switching_neurons_off_waits_neither_on_entry_nor_in_the_forward(name, rows):
    model, batch = tiny_model(name), tiny_batch()
    sets = [random_neurons(model, seed=0), random_neurons(model, seed=1)]
    neurons = sets[0] if rows is None else sets
    with torch.no_grad(), pml.deactivate(model, neurons, rows):
        expected = Decoder(model).forward(**batch)[0]
    with fake_device() as device:
        move(model)
        with torch.no_grad(), pml.deactivate(model, neurons, rows):
            hidden = Decoder(model).forward(**batch)[0]
    assert device.why == []
    is_token = batch["attention_mask"].bool()
    torch.testing.assert_close(hidden.values[is_token], expected[is_token], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "run, probe, tensors", [(pml.detect, ImportanceProbe, 3 * len(pml.SITES)), (pml.activations, ActivationProbe, 1)]
)
def test_a_pass_waits_for_a_batch_after_the_next_launch_and_copies_its_sums_once(run, probe, tensors, monkeypatch):
    model, launch = tiny_model("llama"), probe.launch
    corpora = {"fr": texts("fr", (9, 4, 7, 12, 3, 8) * 2)}
    options = dict(batch_tokens=20, workers=0, progress=False)
    expected = run(model, tiny_tokenizer(), corpora, **options)
    with fake_device() as device:

        def record_launch(*arguments, **keywords):
            device.why.append("launch")
            return launch(*arguments, **keywords)

        monkeypatch.setattr(probe, "launch", record_launch)
        result = run(move(model), tiny_tokenizer(), corpora, **options)
    batches = device.why.count("launch")
    assert batches > 3
    one_behind = ["launch", *["launch", "HostCopy.wait"] * (batches - 1), "HostCopy.wait"]
    assert device.why == one_behind + ["aten._to_copy.default"] * tensors
    if run is pml.activations:
        assert torch.equal(result["fr"].active, expected["fr"].active)
    else:
        assert result.statistics["fr"].documents == expected.statistics["fr"].documents == 12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, which raises where the host would wait")
@pytest.mark.parametrize("name", NAMES)
def test_nothing_waits_on_a_gpu_where_waiting_is_an_error(name):
    model, batch = tiny_model(name).cuda(), tiny_batch()
    neurons, is_token = random_neurons(model), batch["attention_mask"].bool()

    def launch_all() -> list:
        with ImportanceProbe(model) as probe:
            checks = [probe.launch(**batch)[1], ActivationProbe(model).launch(**batch, counted=is_token)[1]]
        ActivationSumProbe(model).measure(**batch)
        with torch.no_grad(), pml.deactivate(model, neurons):
            Decoder(model).forward(**batch)
        return checks

    for check in launch_all():  # compiles the kernels
        check()
    torch.cuda.set_sync_debug_mode("error")
    try:
        checks = launch_all()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for check in checks:
        check()
