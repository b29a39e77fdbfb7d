"""How often the host waits for the device, counted on a fake device and, where there is one, forbidden on a GPU.

Every wait leaves a GPU without work until Python has launched more.
"""

import numpy
import pytest
import torch
from transformers.models.falcon.modeling_falcon import FalconAttention

import pymultiling as pml
from pymultiling import ops
from pymultiling.data.batches import Batch
from pymultiling.models import routing
from pymultiling.models.decoder import Decoder
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.activation_sums import ActivationSumProbe
from pymultiling.probes.hidden_states import SentenceMeanProbe, TopTokenProbe
from pymultiling.probes.importance import ImportanceProbe
from pymultiling.probes.likelihood import LikelihoodProbe
from tests.ops.test_normed_value_energy import Case as NormedValues
from tests.ops.test_whole_norm_importance import Case
from tests.support.fake_device import DEVICE, DeviceTensor, fake_device, move
from tests.support.tiny_models import MODELS, random_neurons, tiny_batch, tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer

EXPERTS = ("mixtral", "qwen3_moe", "olmoe")
WHOLE_NORMS = ("olmo2", "olmoe")
NAMES = [name for name in MODELS if name not in EXPERTS + WHOLE_NORMS]


@pytest.fixture(autouse=True)
def falcon_splits_by_slices(monkeypatch):
    """transformers' Falcon with shared keys takes them by Python lists, which a GPU waits for. Here it takes slices."""

    def split(attention, fused):
        if not attention.new_decoder_architecture and not attention.multi_query:
            return plain(attention, fused)
        heads = fused.view(*fused.shape[:2], attention.num_kv_heads, -1, attention.head_dim)
        parts = heads[..., :-2, :], heads[..., -2:-1, :], heads[..., -1:, :]
        if attention.new_decoder_architecture:
            parts = [part.expand_as(parts[0]) for part in parts]
        return tuple(part.flatten(2, 3) for part in parts)

    plain = FalconAttention._split_heads
    monkeypatch.setattr(FalconAttention, "_split_heads", split)


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


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_one_after_the_other_wait_once_for_each_layer(name):
    """For the number of rows of every expert, in whatever is measured or changed."""
    model, batch = tiny_model(name), tiny_batch()
    neurons, is_token = random_neurons(model), batch["attention_mask"].bool()
    with fake_device() as device:
        move(model)
        with torch.no_grad(), pml.deactivate(model, neurons), ImportanceProbe(model, ("ffn", "v", "o")) as probe:
            probe.launch(**batch)
            assert device.why == ["aten._to_copy.default"] * 2
            device.why.clear()
            ActivationProbe(model).launch(**batch, counted=is_token)
            assert device.why == ["aten._to_copy.default"] * 2
            device.why.clear()
            ActivationSumProbe(model).measure(**batch)
        assert device.why == ["aten._to_copy.default"] * 2


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_at_once_wait_for_nothing(name, monkeypatch):
    monkeypatch.setattr(routing, "_has_grouped", lambda x: True)
    model, batch = tiny_model(name, experts_implementation="grouped_mm"), tiny_batch()
    is_token = batch["attention_mask"].bool()
    expected = pml.importance(model, **batch, sites="ffn")
    with fake_device() as device:
        with ImportanceProbe(move(model), "ffn") as probe:
            importance, _ = probe.launch(**batch)
        ActivationProbe(model).launch(**batch, counted=is_token)
        ActivationSumProbe(model).measure(**batch)
    assert device.why == []
    torch.testing.assert_close(importance["ffn"].values, expected["ffn"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("length", [40, 150])
@pytest.mark.parametrize(
    "case, waits",
    [
        (dict(rescale=1e-3), 2),  # all key neurons are accepted after the first series
        (dict(rescale=1e-3, heads=8, kv_heads=2), 2),
        (dict(softcap=5.0), 0),  # there are no series
        (dict(largest=30.0), 2),  # some t of query neurons are large, and some key neurons are left
        (dict(rescale=1e-6, query_factor=5), 3),  # some series are not accepted
    ],
    ids=str,
)
def test_a_norm_over_all_heads_waits_only_for_what_the_work_depends_on(case, waits, length):
    """Once for how many t are large and which series are tried, and once after each trial, whatever the documents."""
    q, k, q_rescale, k_rescale, valid, scale, window, softcap = Case(length=length, **case).arguments(torch.float32)
    q, k, q_rescale, k_rescale, valid = (x.repeat(2, *[1] * (x.ndim - 1)) for x in (q, k, q_rescale, k_rescale, valid))
    limits = dict(scale=scale, window=window, softcap=softcap)
    expected = ops.whole_norm_importance(q, k, q_rescale, k_rescale, valid, **limits)
    with fake_device() as device:
        on_device = map(DeviceTensor, (q, k, q_rescale, k_rescale, valid))
        results = ops.whole_norm_importance(*on_device, **limits)
    assert device.why == ["aten._to_copy.default"] * waits
    for result, truth in zip(results, expected):
        torch.testing.assert_close(result.values, truth, rtol=1e-3, atol=1e-6 * truth.max().item())


def test_values_that_pass_a_norm_wait_for_nothing():
    tensors, settings = (case := NormedValues(padding="left")).positional(torch.float32), case.settings()
    expected = ops.normed_value_energy(*tensors, **settings)
    with fake_device() as device:
        on_device = (None if x is None else DeviceTensor(x) for x in tensors)
        result = ops.normed_value_energy(*on_device, **settings)
    assert device.why == []
    torch.testing.assert_close(result.values, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma4_text", "bloom", "gpt2"])
def test_padding_on_the_left_waits_for_nothing_more(name):
    model, batch = tiny_model(name), tiny_batch(padding="left")
    with fake_device() as device, ImportanceProbe(move(model)) as probe:
        probe.launch(**batch)
    assert device.why == []


@pytest.mark.parametrize(
    "rope, waits",
    [
        (dict(rope_type="longrope", short_factor=[1.0] * 6, long_factor=[2.0] * 6), 0),
        (dict(rope_type="dynamic"), 2),  # transformers compares the length with two others
    ],
    ids=lambda x: x["rope_type"] if isinstance(x, dict) else "",
)
def test_of_rotations_that_depend_on_the_length_only_dynamic_ones_wait(rope, waits):
    """In the forwards after the first, which makes longrope's tables from Python's numbers.

    All documents are longer than the original context. Between short and long ones longrope exchanges its tables.
    """
    rope = dict(rope, rope_theta=1e4, factor=2.0, original_max_position_embeddings=8)
    model, batch = tiny_model("llama", rope_parameters=rope), {"input_ids": tiny_batch()["input_ids"]}
    pml.importance(model, **batch)
    with fake_device() as device, ImportanceProbe(move(model)) as probe:
        probe.launch(**batch)
        device.why.clear()
        probe.launch(**batch)
    assert device.why == ["aten._local_scalar_dense.default"] * waits


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


@pytest.mark.parametrize("name", [name for name in MODELS if name not in EXPERTS])
def test_likelihoods_hidden_states_and_their_top_tokens_are_launched_without_waiting(name):
    model, batch = tiny_model(name), Batch(**tiny_batch(), order=[0, 1])
    sets = [None, random_neurons(model)]
    with LikelihoodProbe(model, sets) as probe:
        expected = probe.measure(batch, [0, 1], [1, 3])
    with fake_device() as device:
        with LikelihoodProbe(move(model), sets) as probe:
            values = probe.measure(batch, [0, 1], [1, 3])
        if name != "opt-post-norm":  # its last hidden states have another width
            SentenceMeanProbe(model).launch(batch.input_ids, batch.attention_mask)
        TopTokenProbe(model, 2).launch(batch.input_ids, batch.attention_mask)
    assert device.why == []
    torch.testing.assert_close(values.values, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name, reads", [("perplexity", 1), ("ablation_matrix", 2)])
def test_perplexities_wait_once_for_a_corpus_at_its_end(name, reads):
    """For the sums of each corpus, which are on the device."""
    model, corpora = tiny_model("llama"), {"fr": texts("fr", (9, 4, 7) * 4), "de": texts("de", (5, 6) * 4)}
    sets = {"random": random_neurons(model)}

    def run():
        options = dict(batch_tokens=20, workers=0)
        if name == "perplexity":
            return numpy.array(pml.perplexity(model, tiny_tokenizer(), corpora["fr"], **options))
        return pml.ablation_matrix(model, tiny_tokenizer(), sets, corpora, **options).to_numpy()

    expected = run()
    with fake_device() as device:
        move(model)
        result = run()
    assert device.why == ["aten._to_copy.default"] * reads
    numpy.testing.assert_allclose(result, expected, rtol=1e-4)


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
