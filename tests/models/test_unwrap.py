"""Models that people hand over: wrappers around a decoder are taken, other kinds are refused in one sentence."""

import pytest
import torch
import transformers
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DataParallel, DistributedDataParallel

import pymultiling as pml
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer

TEXTS = texts("fr")


@pytest.fixture
def one_process():
    """Initialises torch.distributed with this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture(params=["DataParallel", "DistributedDataParallel", "a compiled DataParallel"])
def wrap(request, one_process):
    return {
        "DataParallel": DataParallel,
        "DistributedDataParallel": DistributedDataParallel,
        "a compiled DataParallel": lambda model: torch.compile(DataParallel(model), backend="eager"),
    }[request.param]


def test_wrappers_of_torch_are_measured_as_the_model_inside(wrap):
    """Compared with the model that is not wrapped, bit for bit."""
    model, tokenizer, options = tiny_model("llama"), tiny_tokenizer(), {"progress": False}
    wrapped, neurons, corpora = wrap(model), random_neurons(model), {"fr": TEXTS}
    measured, truth = (pml.importance(one, **tiny_batch()) for one in (wrapped, model))
    assert all(torch.equal(measured[site], truth[site]) for site in pml.SITES)
    found, truth = (pml.detect(one, tokenizer, corpora, **options).neurons["fr"] for one in (wrapped, model))
    assert found == truth
    assert pml.perplexity(wrapped, tokenizer, TEXTS, **options) == pml.perplexity(model, tokenizer, TEXTS, **options)
    counted, count_truth = (pml.activations(one, tokenizer, corpora, **options) for one in (wrapped, model))
    assert torch.equal(counted["fr"].active, count_truth["fr"].active)
    with pml.deactivate(wrapped, neurons) as same:
        assert same is wrapped
        changed = wrapped(**tiny_batch()).logits
    with pml.deactivate(model, neurons):
        assert torch.equal(changed, model(**tiny_batch()).logits)


def test_train_only_comes_before_distributed_data_parallel(one_process):
    model = tiny_model("llama")
    with pytest.raises(pml.UnsupportedModel, match="call train_only on its module, and then Dist"):
        pml.train_only(DistributedDataParallel(model), random_neurons(model))


def test_data_parallel_on_several_devices_runs_copies_without_the_hooks():
    model = DataParallel(tiny_model("llama"))
    model.device_ids = [0, 1]
    with (
        pytest.raises(pml.UnsupportedModel, match=r"copies of the model, .*: call deactivate on its module"),
        pml.deactivate(model, random_neurons(model.module)),
    ):
        pass


def test_models_of_fsdp_keep_rows_of_a_weight_only(one_process):
    model = tiny_model("llama")
    for layer in model.model.layers:
        fully_shard(layer, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(pml.UnsupportedModel, match="FSDP has spread the weights"):
        pml.importance(model, **tiny_batch())


# Each entry: what is given in place of a model, and what the message says.
NO_MODELS = {
    "a name": ("Qwen/Qwen3-0.6B", "expected a model, got str: load one with AutoModelForCausalLM.from_pretrained"),
    "a list": ([], "expected a model, got list"),
    "a module around the model": (nn.Sequential(tiny_model("llama")), "got Sequential, which has no config"),
}


@pytest.mark.parametrize("kind", NO_MODELS)
def test_what_is_no_model_is_named(kind):
    given, message = NO_MODELS[kind]
    for call in (
        lambda: pml.importance(given, **tiny_batch()),
        lambda: pml.detect(given, tiny_tokenizer(), {"fr": TEXTS}),
        lambda: pml.perplexity(given, tiny_tokenizer(), TEXTS),
        lambda: pml.activations(given, tiny_tokenizer(), {"fr": TEXTS}),
        lambda: pml.sentence_embeddings(given, tiny_tokenizer(), {"fr": TEXTS}),
        lambda: pml.train_only(given, random_neurons(tiny_model("llama"))),
        lambda: pml.freeze(given),
    ):
        with pytest.raises(pml.UnsupportedModel, match=message):
            call()


class Quantised(torch.Tensor):
    """A weight of a class of its own that says it is float32, as torchao's are."""


def test_weights_of_other_classes_are_named():
    model = tiny_model("llama")
    down = model.model.layers[1].mlp.down_proj
    down.weight = nn.Parameter(down.weight.detach().as_subclass(Quantised), requires_grad=False)
    with pytest.raises(
        pml.UnsupportedModel, match=r"down_proj of layer 1 .* a weight of Quantised: load.*without quantisation"
    ):
        pml.importance(model, **tiny_batch())


class T5(transformers.T5ForConditionalGeneration):
    """An encoder-decoder."""

    def __init__(self):
        super().__init__(transformers.T5Config(vocab_size=61, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))


# Each entry makes a model that predicts no next token.
HEADLESS = {
    "without its head": lambda: tiny_model("llama").base_model,
    "with a head that classifies texts": lambda: transformers.LlamaForSequenceClassification(_config()),
    "with a head of more labels than tokens": lambda: transformers.LlamaForSequenceClassification(_config(200)),
    "with a head that classifies tokens": lambda: transformers.LlamaForTokenClassification(_config()),
    "with a head of as many labels as tokens": lambda: transformers.LlamaForTokenClassification(_config(61)),
    "with a head that finds answers": lambda: transformers.LlamaForQuestionAnswering(_config()),
    "an encoder-decoder": T5,
}


def _config(labels: int = 2):
    config = tiny_model("llama").config
    config.num_labels = labels
    return config


@pytest.mark.parametrize("kind", HEADLESS)
def test_a_model_that_predicts_no_token_has_no_perplexity(kind):
    model = HEADLESS[kind]().eval()
    task = pml.tasks.continuation({"fr": TEXTS})
    with pytest.raises(pml.UnsupportedModel, match=f"{type(model).__name__} does not predict the next token"):
        pml.perplexity(model, tiny_tokenizer(), TEXTS)
    if kind != "an encoder-decoder":
        with pytest.raises(pml.UnsupportedModel, match="does not predict the next token"):
            pml.tasks.evaluate(model, tiny_tokenizer(), task, {})


def test_a_model_that_adds_tokens_has_no_perplexity(monkeypatch):
    """As PEFT's prompt tuning does: the logits are those of other positions."""
    model = tiny_model("llama")
    forward = model.forward

    def longer(input_ids, **options):
        ones = torch.ones(len(input_ids), 3, dtype=torch.int64)
        if "attention_mask" in options:
            options["attention_mask"] = torch.cat([ones, options["attention_mask"]], 1)
        return forward(input_ids=torch.cat([ones, input_ids], 1), **options)

    monkeypatch.setattr(model, "forward", longer)
    with pytest.raises(pml.UnsupportedModel, match="adds tokens to its input"):
        pml.perplexity(model, tiny_tokenizer(), TEXTS)


def test_offloaded_weights_have_no_perplexity():
    with torch.device("meta"):
        model = tiny_model("llama").to("meta")
    with pytest.raises(pml.UnsupportedModel, match="weights of the model are offloaded"):
        pml.perplexity(model, tiny_tokenizer(), TEXTS)


def test_a_subclass_of_the_attention_runs_under_eager():
    """Such as one that a notebook defines, whose module has no eager attention. Compared with its parent class."""
    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    truth = pml.importance(model, **tiny_batch())
    for layer in model.model.layers:
        layer.self_attn.__class__ = type("Mine", (type(layer.self_attn),), {"__module__": "__main__"})
    measured = pml.importance(model, **tiny_batch())
    assert all(torch.equal(measured[site], truth[site]) for site in pml.SITES)
