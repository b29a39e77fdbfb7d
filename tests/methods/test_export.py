"""The exported checkpoint, loaded by transformers, computes bit for bit what the model computes in `deactivate`."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMaskedLM, AutoTokenizer

import pymultiling as pml
from tests.models import test_multimodal_models as multimodal
from tests.support.tiny_models import ENCODERS, FURTHER_MODELS, MODELS, random_neurons, tiny_batch, tiny_model
from tests.support.tiny_text import save_model, tiny_tokenizer

BATCH = tiny_batch()
DTYPES = (torch.float32, torch.bfloat16)


def load(folder, auto_model=AutoModelForCausalLM, **options):
    """Loads a model with the implementations of attention and experts of the tiny models."""
    config = transformers.AutoConfig.from_pretrained(folder)
    if config.model_type in ENCODERS:
        auto_model = AutoModelForMaskedLM
    if config.model_type == "mistral4":  # transformers has it as the text decoder of Mistral 3 only
        auto_model = AutoModelForImageTextToText
    if config.model_type == "gemma2":
        options["attn_implementation"] = "eager"
    text_config = config.get_text_config()
    if hasattr(text_config, "num_experts_per_tok") or hasattr(text_config, "moe_topk"):
        options["experts_implementation"] = "eager"
    return auto_model.from_pretrained(folder, **options).eval()


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(**BATCH, use_cache=False).logits


def logits_off(model, neurons, **options) -> torch.Tensor:
    with pml.deactivate(model, neurons, verify=False, **options):
        return logits(model)


def assert_computes(folder, expected: torch.Tensor, **options) -> None:
    exported = logits(load(folder, **options))
    assert exported.dtype == expected.dtype
    assert torch.equal(exported, expected), (exported - expected).abs().max()


# transformers loads the text decoder of Emu3 only as a part of the whole model, which is tested below.
ALONE = [name for name in (*MODELS, *FURTHER_MODELS, *ENCODERS) if name != "emu3_text_model"]


@pytest.mark.parametrize("dtype", DTYPES, ids=("float32", "bfloat16"))
@pytest.mark.parametrize("name", ALONE)
def test_logits_are_bit_for_bit_those_of_deactivate(name, dtype, tmp_path):
    """Neurons of all sites, off and doubled. The folder has many shards, which are copied one after the other."""
    tiny_model(name, dtype).save_pretrained(tmp_path / "model", max_shard_size="4KB")
    model = load(tmp_path / "model")
    neurons = random_neurons(model)
    for scale in (0.0, 2.0):
        pml.export(tmp_path / "model", None, neurons, tmp_path / str(scale), scale=scale)
        expected = logits_off(model, neurons, scale=scale)
        assert not torch.equal(expected, logits(model))
        assert_computes(tmp_path / str(scale), expected)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "gpt_neox"])
def test_a_model_in_memory_gives_the_same_checkpoint_and_stays_as_it_is(name, tmp_path):
    model = tiny_model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    neurons = random_neurons(model)
    pml.export(model, tiny_tokenizer(), neurons, tmp_path / "from memory")
    save_model(tmp_path / "model", model)
    pml.export(tmp_path / "model", None, neurons, tmp_path / "from folder")
    files = {path.name: path.read_bytes() for path in (tmp_path / "from memory").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "from folder").iterdir()}
    assert files.keys() >= {"model.safetensors", "config.json", "tokenizer.json", "README.md"}
    assert_computes(tmp_path / "from memory", logits_off(model, neurons))
    assert AutoTokenizer.from_pretrained(tmp_path / "from memory")("w3 w9") == tiny_tokenizer()("w3 w9")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_several_sets_get_a_folder_each(tmp_path):
    model = tiny_model("qwen3")
    sets = {"fr": random_neurons(model), "de": random_neurons(model, seed=1)}
    pml.export(model, tiny_tokenizer(), sets, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["de", "fr"]
    for name, neurons in sets.items():
        assert_computes(tmp_path / "out" / name, logits_off(model, neurons))


def test_shards_and_their_index_are_those_of_the_model(tmp_path):
    """A new dtype changes the size in the index and the dtype in the configuration."""
    tiny_model("llama").save_pretrained(tmp_path / "model", max_shard_size="4KB")
    model = load(tmp_path / "model", dtype="bfloat16")
    neurons = random_neurons(model)
    pml.export(tmp_path / "model", tiny_tokenizer(), neurons, tmp_path / "out", dtype="bfloat16")
    index, exported = (json.loads((tmp_path / name / "model.safetensors.index.json").read_text())
                       for name in ("model", "out"))  # fmt: skip
    assert exported["weight_map"] == index["weight_map"] and len(set(index["weight_map"].values())) >= 8
    assert exported["metadata"]["total_size"] * 2 == index["metadata"]["total_size"]
    for file in set(index["weight_map"].values()):
        tensors = load_file(tmp_path / "out" / file)
        assert {key for key, name in index["weight_map"].items() if name == file} == set(tensors)
        assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert_computes(tmp_path / "out", logits_off(model, neurons))


def test_other_scales_agree_to_rounding(tmp_path):
    """In float64: 1.7 is rounded into the weight instead of the activation, each by at most 2^-53."""
    model = tiny_model("llama", torch.float64)
    neurons = random_neurons(model)
    pml.export(model, None, neurons, tmp_path / "out", scale=1.7)
    expected = logits_off(model, neurons, scale=1.7)
    torch.testing.assert_close(logits(load(tmp_path / "out")), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["gpt2", "starcoder2", "gpt_neox", "bloom"])
def test_biases_hold_the_mean_activation(name, tmp_path):
    """q, k and v bit for bit; ffn and o to the rounding of float64, because W m is added in another order."""
    tiny_model(name, torch.float64).save_pretrained(tmp_path / "model")
    model = load(tmp_path / "model")
    neurons = random_neurons(model)
    generator = torch.Generator().manual_seed(0)
    mean = {site: torch.randn(mask.shape, generator=generator) for site, mask in neurons.sites.items()}
    rows = neurons.only("q", "k", "v")
    pml.export(tmp_path / "model", None, rows, tmp_path / "rows", mean=mean)
    assert_computes(tmp_path / "rows", logits_off(model, rows, mean=mean))
    expected = logits_off(model, neurons, mean=mean)
    for number, source in enumerate((model, tmp_path / "model")):
        pml.export(source, None, neurons, tmp_path / str(number), mean=mean)
        torch.testing.assert_close(logits(load(tmp_path / str(number))), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name, sites, message",
    [
        ("llama-yarn", ("ffn",), "model.layers.0.mlp.down_proj has no bias, which would hold the mean of its ffn"),
        ("qwen2", ("q", "o"), "model.layers.0.self_attn.o_proj has no bias"),
        ("llama-yarn", ("v",), "model.layers.0.self_attn.v_proj has no bias"),
        ("mixtral", ("ffn",), "no bias holds"),
    ],
)
def test_a_mean_that_no_bias_holds_is_refused(name, sites, message, tmp_path):
    model = tiny_model(name)
    neurons = random_neurons(model, sites=sites)
    mean = {site: torch.ones(mask.shape) for site, mask in neurons.sites.items()}
    with pytest.raises(pml.UnsupportedModel, match=message):
        pml.export(model, None, neurons, tmp_path / "out", mean=mean)
    assert not list(tmp_path.iterdir())


def test_other_layouts_of_checkpoints_are_understood(tmp_path):
    """Names without the head's prefix, as GPT-2 has them on the Hub, and experts that are stacked in the file."""
    for name, save in (
        ("gpt2", lambda model, folder: model.transformer.save_pretrained(folder)),
        ("mixtral", lambda model, folder: model.save_pretrained(folder, save_original_format=False)),
    ):
        folder = tmp_path / name
        save(tiny_model(name, tie_word_embeddings=name == "gpt2"), folder)
        model = load(folder)
        neurons = random_neurons(model)
        pml.export(folder, None, neurons, tmp_path / f"{name} off")
        assert_computes(tmp_path / f"{name} off", logits_off(model, neurons))


@pytest.mark.parametrize("dtype", DTYPES, ids=("float32", "bfloat16"))
@pytest.mark.parametrize("name", multimodal.MODELS)
def test_the_text_decoder_of_a_model_that_takes_images(name, dtype, tmp_path):
    """Neurons of all sites, off and doubled, from a folder of many shards and from memory."""
    multimodal.multimodal_model(name).to(dtype).save_pretrained(tmp_path / "model", max_shard_size="4KB")
    model = load(tmp_path / "model", AutoModelForImageTextToText)
    neurons = random_neurons(model.get_decoder())
    for number, (source, scale) in enumerate(((tmp_path / "model", 0.0), (tmp_path / "model", 2.0), (model, 0.0))):
        pml.export(source, None, neurons, tmp_path / str(number), scale=scale)
        expected = logits_off(model, neurons, scale=scale)
        assert not torch.equal(expected, logits(model))
        assert_computes(tmp_path / str(number), expected, auto_model=AutoModelForImageTextToText)


def test_the_card_says_what_was_changed(tmp_path):
    model = tiny_model("qwen3")
    model.config._name_or_path = "Qwen/Qwen3-0.6B"
    neurons = random_neurons(model, sites=("ffn", "q"))
    pml.export(model, None, {"fr": neurons}, tmp_path / "out", scale=2)
    card = (tmp_path / "out" / "fr" / "README.md").read_text()
    assert card.startswith("---\nbase_model: Qwen/Qwen3-0.6B\nlibrary_name: transformers\n")
    assert f"# Qwen/Qwen3-0.6B with {len(neurons)} neurons scaled by 2\n" in card and "(set `fr`)" in card
    assert f"| ffn | {neurons.count()['ffn']} | 74 |\n| q | {neurons.count()['q']} | 128 |\n" in card
    model.config._name_or_path = str(tmp_path)
    pml.export(model, None, neurons, tmp_path / "other")
    assert str(tmp_path) not in (tmp_path / "other" / "README.md").read_text()


PROGRAM = """
import sys
from pathlib import Path
import pymultiling as pml

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

folder = Path(sys.argv[1])
pml.export(folder / "tiny", None, pml.NeuronSet.load(folder / "tiny.safetensors"), folder / "tiny off")  # imports
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
before = memory("VmRSS")
pml.export(folder / "model", None, pml.NeuronSet.load(folder / "set.safetensors"), folder / "off")
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_folder_is_exported_with_less_memory_than_a_shard(tmp_path):
    """8 layers of 10 MB, in shards of at most 11 MB. An export of a tiny model comes first, to import everything."""
    save_model(tmp_path / "tiny", tiny_model("llama-yarn"))
    random_neurons(tiny_model("llama-yarn")).save(tmp_path / "tiny.safetensors")
    model = tiny_model("llama-yarn", hidden_size=512, intermediate_size=1024, num_hidden_layers=8)
    model.save_pretrained(tmp_path / "model", max_shard_size="11MB")
    shards = list((tmp_path / "model").glob("*.safetensors"))
    assert len(shards) >= 8
    random_neurons(model).save(tmp_path / "set.safetensors")
    done = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < max(path.stat().st_size for path in shards)
