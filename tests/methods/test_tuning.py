"""pml.train_only against training of all parameters, and against a copy with parameters set to zero."""

import copy

import pytest
import torch

import pymultiling as pml
from pymultiling.methods.tuning import NeuronTuning, train_only
from tests.support.anatomy import EXPERT_COUNT_FIELDS
from tests.support.tiny_models import REPRESENTATIVE_MODELS, tiny_batch, tiny_model, with_zeroed_neurons
from tests.support.tiny_models import random_neurons as neurons_of_all_sites
from tests.support.tiny_text import tiny_tokenizer

BATCH = tiny_batch((9, 9))
OUTPUTS = ("o_proj", "down_proj", "c_proj", ".dense", "dense_4h_to_h", "out_proj", "fc2")


def random_neurons(model, *arguments, sites=pml.SITES, **options) -> pml.NeuronSet:
    """Draws neurons that can be trained: of a mixture of experts, those of the attention only."""
    has_experts = model.config.model_type in EXPERT_COUNT_FIELDS
    return neurons_of_all_sites(
        model, *arguments, sites=[site for site in sites if not has_experts or site != "ffn"], **options
    )


def chosen_entries(model, neurons) -> dict[str, torch.Tensor]:
    """Returns which entries of each parameter belong to the neurons: those that differ in a zeroed copy."""
    off = dict(with_zeroed_neurons(model, neurons).named_parameters())
    return {name: off[name] != parameter for name, parameter in model.named_parameters()}


def loss_of(model, batch=BATCH) -> torch.Tensor:
    return model(**batch, labels=batch["input_ids"]).loss


def adamw(model, **options) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-2, **options
    )


def train(model, optimizer, steps: int = 3, before_step=lambda: None) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, tiny_batch((9, 9), seed=step)).backward()
        before_step()
        optimizer.step()


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(**BATCH).logits


def attributes_of(model) -> list:
    """Returns names and numbers of everything that training adds to modules, and which parameters are trainable."""
    return [
        (
            name,
            sorted(vars(module)),
            *map(len, (module._parameters, module._buffers, module._forward_hooks, module._state_dict_hooks)),
        )
        for name, module in model.named_modules()
    ] + [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]


def is_same_state(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "name, site",
    [(name, site) for name in REPRESENTATIVE_MODELS for site in pml.SITES if (name, site) != ("mixtral", "ffn")],
)
def test_only_the_neurons_parameters_change(name, site):
    model = tiny_model(name, torch.float64)
    neurons, before = random_neurons(model, sites=[site]), copy.deepcopy(model.state_dict())
    chosen, clean = chosen_entries(model, neurons), attributes_of(model)
    trained = train_only(model, neurons)
    train(model, adamw(model))
    assert is_same_state({name: before[name] for name in chosen}, base_weights(model))
    trained.merge()
    assert attributes_of(model) == clean
    for name, parameter in model.named_parameters():
        moved = parameter != before[name]
        assert not (moved & ~chosen[name]).any(), name
        assert not chosen[name].any() or moved[chosen[name]].double().mean() > 0.9, name


def base_weights(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if "neuron_delta" not in name}


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_gradients_are_those_of_full_training(name):
    model = tiny_model(name, torch.float64)
    neurons, reference = random_neurons(model), copy.deepcopy(model)
    loss_of(reference).backward()
    with train_only(model, neurons):
        loss_of(model).backward()
        checked = 0
        for path, module in model.named_modules():
            index = getattr(module, "neuron_index", None)
            if index is None:
                continue
            full = reference.get_submodule(path)
            dimension = int(path.endswith(OUTPUTS)) ^ (type(full).__name__ == "Conv1D")
            torch.testing.assert_close(module.neuron_delta.grad, full.weight.grad.index_select(dimension, index))
            if hasattr(module, "neuron_delta_bias"):
                torch.testing.assert_close(module.neuron_delta_bias.grad, full.bias.grad[index])
            checked += module.neuron_delta.numel()
        entries = chosen_entries(reference, neurons)
        assert checked == sum(int(mask.sum()) for mask in entries.values() if mask.ndim == 2)
        assert all((parameter.grad is None) == (not parameter.requires_grad) for parameter in model.parameters())


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_training_equals_full_training_with_all_other_gradients_zeroed(name):
    model = tiny_model(name, torch.float64)
    neurons, reference = random_neurons(model), copy.deepcopy(model)
    chosen = chosen_entries(model, neurons)

    def zero_other_gradients():
        for key, parameter in reference.named_parameters():
            parameter.grad *= chosen[key]

    train(
        reference, adamw(reference, weight_decay=0.0, eps=1e-4), before_step=zero_other_gradients
    )  # eps: rounding counts where gradients are 0
    with train_only(model, neurons) as trained:
        train(model, adamw(model, weight_decay=0.0, eps=1e-4))
        trained.merge()
    for (key, value), (_, expected) in zip(model.named_parameters(), reference.named_parameters()):
        torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-7, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_the_model_runs_as_it_will_when_merged(name):
    model = tiny_model(name, torch.float64)
    plain = logits(model)
    with train_only(model, random_neurons(model)) as trained:
        assert torch.equal(logits(model), plain)  # differences of zero change no bit
        train(model, adamw(model))
        during = logits(model)
        generated = model.generate(**BATCH, max_new_tokens=5, do_sample=False)
        trained.merge()
    assert (during - plain).abs().max() > 1e-3
    torch.testing.assert_close(logits(model), during, rtol=1e-10, atol=1e-10)
    assert torch.equal(model.generate(**BATCH, max_new_tokens=5, do_sample=False), generated)


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_remove_restores_the_model(name):
    model = tiny_model(name)
    model.get_input_embeddings().requires_grad_(False)
    clean, before, plain = attributes_of(model), copy.deepcopy(model.state_dict()), logits(model)

    def train_until_interrupted() -> None:
        with train_only(model, random_neurons(model)):
            train(model, adamw(model))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_until_interrupted()
    assert attributes_of(model) == clean and is_same_state(model.state_dict(), before)
    assert torch.equal(logits(model), plain)


def test_optimizer_state_is_proportional_to_the_neurons():
    model = tiny_model("llama")
    neurons = random_neurons(model, 0.05)
    count = sum(int(mask.sum()) for mask in chosen_entries(model, neurons).values())
    with train_only(model, neurons) as trained:
        optimizer = adamw(model)
        train(model, optimizer, 1)
        assert sum(parameter.numel() for parameter in trained.parameters()) == count
        assert {id(parameter) for parameter in trained.parameters()} == {
            id(parameter) for parameter in model.parameters() if parameter.requires_grad
        }
        moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
        assert sum(moment.numel() for moment in moments) == 2 * count


def enable_gradient_checkpointing(model, options: dict) -> None:
    """Enables it by the method that this version of transformers has."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(options)
    else:
        model.gradient_checkpointing_enable(options)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["llama", "phi3", "gemma2"])
def test_gradients_are_the_same_with_gradient_checkpointing(name, reentrant):
    model = tiny_model(name, torch.float64).train()
    with train_only(model, random_neurons(model)) as trained:
        loss_of(model).backward()
        plain = [parameter.grad.clone() for parameter in trained.parameters()]
        model.zero_grad()
        enable_gradient_checkpointing(model, {"use_reentrant": reentrant})
        loss_of(model).backward()
        for parameter, gradient in zip(trained.parameters(), plain):
            torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["llama", "phi3", "qwen3"])
def test_16_bit_models_train_float32_differences(name, dtype):
    model = tiny_model(name, dtype)
    neurons, before = random_neurons(model), copy.deepcopy(model.state_dict())
    chosen = chosen_entries(model, neurons)
    with train_only(model, neurons) as trained:
        start = loss_of(model).item()
        optimizer = adamw(model)
        for _ in range(5):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
        assert all(parameter.dtype == torch.float32 for parameter in trained.parameters())
        during = loss_of(model).item()
        trained.merge()
    assert during < start - 0.05 and abs(loss_of(model).item() - during) < 0.1 * (start - during)
    for key, value in model.state_dict().items():
        assert value.dtype == dtype and not ((value != before[key]) & ~chosen[key]).any()


def test_gradients_under_autocast_are_near_the_exact_ones():
    model = tiny_model("llama")
    with train_only(model, random_neurons(model)) as trained:
        loss_of(model).backward()
        exact = torch.cat([parameter.grad.flatten() for parameter in trained.parameters()])
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss_of(model).backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in trained.parameters()])
        assert gradients.dtype == torch.float32 and (gradients - exact).norm() < 0.1 * exact.norm()


@pytest.mark.long
def test_a_compiled_model_runs_with_the_differences():
    model = tiny_model("llama", torch.float64)
    compiled, plain = torch.compile(model, backend="eager"), logits(model)
    with torch.no_grad():
        compiled(**BATCH)
    with train_only(model, random_neurons(model)):
        train(compiled, adamw(model))
        with torch.no_grad():
            assert torch.equal(compiled(**BATCH).logits, logits(model))
        assert not torch.equal(logits(model), plain)
    with torch.no_grad():
        assert torch.equal(compiled(**BATCH).logits, plain)


@pytest.mark.parametrize("inside", [True, False], ids=["deactivate inside", "deactivate outside"])
@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_deactivated_neurons_stay_off_and_do_not_train(name, inside):
    model = tiny_model(name, torch.float64)
    neurons, off = random_neurons(model, seed=1), random_neurons(model, 0.5, seed=2)
    merged = copy.deepcopy(model)
    with train_only(merged, neurons) as trained:
        train(merged, adamw(merged))
        state = merged.state_dict()
        trained.merge()
    with pml.deactivate(merged, off):
        expected = logits(merged)
    if inside:
        tuning = train_only(model, neurons)
        context = pml.deactivate(model, off)
        context.__enter__()
    else:
        context = pml.deactivate(model, off)
        context.__enter__()
        tuning = train_only(model, neurons)
    model.load_state_dict(state)
    torch.testing.assert_close(logits(model), expected, rtol=1e-10, atol=1e-10)
    loss_of(model).backward()
    gradient = model.model.layers[0].mlp.down_proj.neuron_delta.grad
    is_off = off.sites["ffn"][0][neurons.sites["ffn"][0]]
    assert is_off.any() and not gradient[:, is_off].any() and gradient[:, ~is_off].any()
    context.__exit__(None, None, None)
    tuning.remove()


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_the_state_inside_the_block_is_that_of_the_merged_model(name, tmp_path):
    model = tiny_model(name, torch.float64)
    before = copy.deepcopy(model.state_dict())
    tuning = train_only(model, random_neurons(model))
    train(model, adamw(model))
    during = logits(model)
    state = model.state_dict()
    model.save_pretrained(tmp_path)
    loaded, report = type(model).from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    again = copy.deepcopy(model)
    tuning.merge()
    assert is_same_state(model.state_dict(), state) and is_same_state(loaded.state_dict(), state)

    # A copy has its own differences, and loading a state sets them.
    again.load_state_dict(before)
    assert not any(parameter.any() for parameter in again.parameters() if parameter.requires_grad)
    again.load_state_dict(state)
    torch.testing.assert_close(logits(again), during, rtol=1e-9, atol=1e-9)
    assert is_same_state(base_weights(again), {key: before[key] for key in base_weights(again)})


def test_a_state_that_lacks_a_weight_is_reported_by_that_name():
    model = tiny_model("llama")
    with train_only(model, random_neurons(model)):
        state = model.state_dict()
        del state["model.layers.0.mlp.down_proj.weight"]
        with pytest.raises(RuntimeError, match=r'Missing key.*: "model.layers.0.mlp.down_proj.weight"') as error:
            model.load_state_dict(state)
        assert "neuron_delta" not in str(error.value)


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_saved_differences_give_the_same_model_when_loaded(name, tmp_path):
    model, neurons = tiny_model(name), random_neurons(tiny_model(name))
    with train_only(model, neurons) as trained:
        train(model, adamw(model))
        during = logits(model)
        trained.save(tmp_path / "fr.safetensors", language="fr")
    again = NeuronTuning.load(model, tmp_path / "fr.safetensors")
    assert again.neurons == neurons and torch.equal(logits(model), during)
    train(model, adamw(model))  # training goes on
    again.remove()

    base = tiny_model(name).base_model  # without its head: the same file fits
    for some_model in (model, base):
        NeuronTuning.load(some_model, tmp_path / "fr.safetensors").merge()
    assert is_same_state(base.state_dict(), model.base_model.state_dict())


def test_a_file_of_another_model_is_refused(tmp_path):
    model, path = tiny_model("llama"), tmp_path / "delta.safetensors"
    with train_only(model, random_neurons(model)) as trained:
        trained.save(path)
    for foreign, sentence in (
        (tiny_model("llama", intermediate_size=41), "ffn is 2 layers x 37 neurons, this model's 2 x 41"),
        (
            tiny_model("llama", hidden_size=40),
            r"another model: layers.0.mlp.down_proj.weight is \(32, .* in the file and \(40, .*; load the model that",
        ),
        (
            tiny_model("llama", mlp_bias=False),
            "another model: .*gate_proj.bias is .* in the file and missing in this model",
        ),
    ):
        clean = attributes_of(foreign)
        with pytest.raises(pml.CheckpointError, match=sentence):
            NeuronTuning.load(foreign, path)
        assert attributes_of(foreign) == clean
    random_neurons(model).save(path)
    with pytest.raises(
        pml.CheckpointError, match=r"is pymultiling.neurons/1; expected the differences that train_only trained"
    ):
        NeuronTuning.load(model, path)
    with pytest.raises(pml.CheckpointError, match="no such file"):
        NeuronTuning.load(model, tmp_path / "none")


def test_models_and_sets_that_cannot_be_trained_are_refused():
    model = tiny_model("llama")
    neurons = random_neurons(model)
    clean = attributes_of(model)
    with pytest.raises(ValueError, match="another model: its ffn is 2 layers x 41"):
        train_only(model, random_neurons(tiny_model("llama", intermediate_size=41)))
    with pytest.raises(ValueError, match="no neurons, so that nothing would be trained"):
        train_only(model, neurons - neurons)
    experts = tiny_model("mixtral")
    clean_experts = attributes_of(experts)
    with pytest.raises(
        pml.UnsupportedModel, match=r"FFN neurons of experts, .*: give neurons.only\('q', 'k', 'v', 'o'\)"
    ):
        train_only(experts, neurons_of_all_sites(experts))
    assert attributes_of(experts) == clean_experts
    train_only(experts, neurons_of_all_sites(experts).only("q", "k", "v", "o")).remove()
    with pytest.raises(pml.UnsupportedModel, match="offloaded"):
        train_only(tiny_model("llama").to("meta"), neurons)
    quantised = tiny_model("llama")
    quantised.model.layers[1].mlp.up_proj = torch.nn.Embedding(2, 2)
    with pytest.raises(pml.UnsupportedModel, match="without quantisation"):
        train_only(quantised, neurons)
    assert attributes_of(model) == clean
    with train_only(model, neurons) as trained:
        with pytest.raises(ValueError, match="trains neurons already"):
            train_only(model, neurons)
        trained.merge()
        for method in (trained.merge, trained.remove, trained.parameters, lambda: trained.save("nowhere")):
            with pytest.raises(ValueError, match="has ended"):
                method()
    assert attributes_of(model) == clean
    train_only(model, neurons).remove()


def test_sites_that_the_set_lacks_get_no_parameters():
    model = tiny_model("phi3")
    with train_only(model, random_neurons(model, sites=["k"])) as trained:
        assert len(trained.parameters()) == model.config.num_hidden_layers
        assert all("qkv_proj" in name for name, parameter in model.named_parameters() if parameter.requires_grad)


def test_importance_refuses_a_model_that_trains_neurons():
    model = tiny_model("llama")
    with train_only(model, random_neurons(model)) as trained:
        with pytest.raises(ValueError, match=r"call merge\(\) or remove\(\) of what train_only returned"):
            pml.importance(model, **tiny_batch((9, 5)))
        next(model.model.layers[0].mlp.gate_proj.parameters())[0] = torch.nan
        with pytest.raises(pml.NonFiniteActivations):  # raised by the measurement
            pml.activations(model, tiny_tokenizer(), {"fr": ["w4 w5"]}, progress=False)
        next(model.model.layers[0].mlp.gate_proj.parameters())[0] = 0
        trained.merge()
    pml.importance(model, **tiny_batch((9, 5)))
