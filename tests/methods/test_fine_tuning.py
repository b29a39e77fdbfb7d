"""pml.fine_tune against a plain training loop with one document in each forward and without padding."""

import copy
import re
import warnings

import pandas
import pytest
import torch
from torch.nn.functional import cross_entropy

import pymultiling as pml
from tests.methods.test_tuning import chosen_entries
from tests.support.tiny_models import random_neurons, tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer, write_text

pytest.importorskip("accelerate", reason="Trainer needs accelerate")

TEXTS = texts("fr")  # six, of different lengths
DOCUMENTS = tiny_tokenizer()(TEXTS)["input_ids"]


def tune(model, source=TEXTS, **options) -> pml.FineTuning:
    return pml.fine_tune(model, tiny_tokenizer(), source, **{"rate": 1e-2, "progress": False, **options})


def summed_loss(model, tokens: list[int]) -> torch.Tensor:
    """Returns the loss of one document. transformers computes it in float32, whatever the model's dtype."""
    logits = model(input_ids=torch.tensor([tokens])).logits[0, :-1].float()
    return cross_entropy(logits, torch.tensor(tokens[1:]), reduction="sum")


def training_loop(model, rates: list[float], weight_decay: float) -> tuple[list[float], list[float]]:
    """Trains on all documents in every step; returns the losses, and the gradient norms before clipping."""
    parameters, losses, norms = list(model.parameters()), [], []
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim == 2], "weight_decay": weight_decay},
        # Biases and norms.
        {"params": [parameter for parameter in parameters if parameter.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    for rate in rates:
        for group in groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = sum(summed_loss(model, tokens) for tokens in DOCUMENTS) / sum(len(tokens) - 1 for tokens in DOCUMENTS)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).item())
        optimizer.step()
        losses.append(loss.item())
    return losses, norms


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_training_is_adamw_with_warm_up_linear_decay_and_clipped_gradients(name):
    model = tiny_model(name, torch.float64)
    reference, start = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    result = tune(model, rate=2e-2, epochs=9, batch=6, warm_up=0.5, weight_decay=0.1)
    rates = [2e-2 * part for part in (0, 1 / 4, 2 / 4, 3 / 4, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5)]
    losses, norms = training_loop(reference, rates, 0.1)
    assert min(norms) < 1 < max(norms)  # some are clipped, some are not
    assert result.log["rate"].tolist() == pytest.approx(rates, rel=1e-12)
    assert result.log["loss"].tolist() == pytest.approx(losses, rel=1e-6)  # float32
    for (key, value), (_, expected) in zip(model.named_parameters(), reference.named_parameters()):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")
        assert (value - start[key]).abs().max() > 1e-3, key


def test_every_epoch_has_every_document_once_in_another_order():
    model = tiny_model("llama")
    with torch.no_grad():
        expected = sorted(summed_loss(model, tokens).item() / (len(tokens) - 1) for tokens in DOCUMENTS)
    losses = tune(model, rate=1e-12, epochs=2, batch=1).log["loss"].tolist()  # a rate too low to change a loss
    assert not torch.equal(*torch.tensor(losses).view(2, 6).argsort())
    assert sorted(losses[:6]) == pytest.approx(expected, rel=1e-6) == sorted(losses[6:])


def test_parameters_without_requires_grad_stay_bit_for_bit():
    model = tiny_model("llama")
    frozen, before = pml.freeze(model, [0]), copy.deepcopy(model.state_dict())
    result = tune(model, batch=2, weight_decay=0.1)
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == set(frozen)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in frozen), name
    assert result.parameters == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_only_neurons_train_inside_train_only_and_only_they_have_optimizer_state():
    model = tiny_model("llama")
    neurons, before = random_neurons(model, 0.05), copy.deepcopy(model.state_dict())
    chosen = chosen_entries(model, neurons)
    with pml.train_only(model, neurons) as trained:
        result, tensors = tune(model, epochs=2), len(trained.parameters())
        trained.merge()
    assert result.parameters == sum(int(mask.sum()) for mask in chosen.values())
    # Two moments of each number, and a step count of each tensor.
    assert result.optimizer_bytes == 2 * 4 * result.parameters + 4 * tensors
    for name, parameter in model.named_parameters():
        moved = parameter != before[name]
        assert not (moved & ~chosen[name]).any(), name
        assert not chosen[name].any() or moved[chosen[name]].double().mean() > 0.9, name


@pytest.mark.parametrize("epochs, batch, documents, steps", [(2, 4, None, 4), (3, 2, 3, 6), (1, 1, 9, 6)])
def test_steps_are_the_batches_of_all_epochs(epochs, batch, documents, steps):
    result = tune(tiny_model("llama"), epochs=epochs, batch=batch, documents=documents)
    assert result.documents == min(documents or 6, 6)
    assert list(result.log) == ["step", "loss", "rate"] and result.log["step"].tolist() == list(range(1, steps + 1))


def test_the_option_documents_trains_on_the_first_ones():
    """The report is of the texts that were trained on."""
    results = [tune(tiny_model("llama"), TEXTS[:end], documents=3, epochs=2, batch=2) for end in (3, 6)]
    assert [result.corpus.texts for result in results] == [3, 3]
    pandas.testing.assert_frame_equal(*(result.log for result in results), check_exact=True)


def test_the_option_tokens_trains_on_the_first_documents():
    """The first two documents have 10 and 5 tokens, the third 8."""
    results = [tune(tiny_model("llama"), TEXTS[:2], epochs=2, batch=2)]
    results += [tune(tiny_model("llama"), tokens=tokens, epochs=2, batch=2) for tokens in (15, 22)]
    for result in results[1:]:
        assert result.documents == result.corpus.texts == 2
        pandas.testing.assert_frame_equal(result.log, results[0].log, check_exact=True)


def test_the_rate_rises_and_falls_linearly():
    rates = tune(tiny_model("llama"), epochs=10, batch=8, warm_up=0.5, rate=2e-3).log["rate"]
    assert rates.tolist() == pytest.approx([2e-3 * part / 5 for part in (0, 1, 2, 3, 4, 5, 4, 3, 2, 1)], rel=1e-12)
    assert tune(tiny_model("llama"), epochs=2, warm_up=0, rate=2e-3).log["rate"].tolist() == [2e-3, 1e-3]


def test_corpora_are_reported_and_packed(tmp_path):
    result = tune(tiny_model("llama"), ["", *TEXTS, " \n"], max_length=8)
    assert (result.corpus.texts, result.corpus.empty, result.corpus.cut) == (8, 2, 3) and result.documents == 6
    packed = tune(tiny_model("llama"), write_text(tmp_path / "fr.txt", TEXTS), pack=10, batch=1)
    tokens = sum(len(text.split()) + 1 for text in TEXTS)  # with an end-of-text token; <s> opens each document
    assert packed.documents == len(packed.log) == tokens // 9 and packed.corpus.left_over == tokens % 9 > 0


def test_equal_seeds_give_equal_weights_and_other_seeds_do_not():
    models = [tiny_model("llama") for _ in range(3)]
    logs = [tune(model, batch=2, epochs=2, seed=seed).log for model, seed in zip(models, (3, 3, 4))]
    pandas.testing.assert_frame_equal(logs[0], logs[1], check_exact=True)
    weights = [torch.cat([parameter.detach().flatten() for parameter in model.parameters()]) for model in models]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert (logs[0]["loss"] - logs[2]["loss"]).abs().max() > 1e-2


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_of_the_model_is_restored(training):
    model = tiny_model("llama").train(training)
    modes_in_forwards = []
    model.register_forward_pre_hook(lambda module, _: modes_in_forwards.append(module.training))
    tune(model)
    assert modes_in_forwards == [True] and {module.training for module in model.modules()} == {training}
    model.model.norm.weight.data[3] = torch.nan
    with pytest.raises(pml.NonFiniteActivations, match=r"^step 1: the loss is nan; try a lower rate$"):
        tune(model)
    assert {module.training for module in model.modules()} == {training}


def test_nothing_but_parameters_changes():
    model = tiny_model("llama").train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    attributes = set(vars(model))
    tune(model)
    assert [module.training for module in model.modules()] == modes and model.config.use_cache is True
    assert set(vars(model)) == attributes


def test_16_bit_parameters_cause_a_warning():
    model = tiny_model("llama", torch.bfloat16)
    with pytest.warns(UserWarning, match="parameters in 16 bits lose small steps"):
        tune(model)
    with warnings.catch_warnings(), pml.train_only(model, random_neurons(model)):
        warnings.simplefilter("error")
        tune(model)


def test_infinite_parameters_after_the_last_step_are_an_error():
    with pytest.raises(
        pml.NonFiniteActivations, match="after 1 steps parameters are NaN or infinite; try a lower rate"
    ):
        tune(tiny_model("llama"), rate=1e38, epochs=1, batch=8)


def test_wrong_arguments_are_refused(monkeypatch):
    model = tiny_model("llama")
    for options, sentence in (
        ({"rate": 0}, "rate must be above 0 and finite, got 0"),
        ({"rate": float("nan")}, "rate must be above 0 and finite, got nan"),
        ({"rate": float("inf")}, "rate must be above 0 and finite, got inf"),
        ({"epochs": 0}, "epochs, batch and documents must be at least 1, got 0, 8 and None"),
        ({"batch": 0}, "epochs, batch and documents must be at least 1, got 1, 0 and None"),
        ({"documents": 0}, "epochs, batch and documents must be at least 1, got 1, 8 and 0"),
        ({"tokens": 0}, "tokens must be at least 1, or None for all, got 0"),
        ({"warm_up": 2}, "warm_up must be a fraction of the steps, from 0 to below 1, got 2"),
        ({"warm_up": -0.1}, "warm_up must be a fraction of the steps, from 0 to below 1, got -0.1"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            tune(model, **options)
    for source, reason in ((["", " "], "texts 2, empty 2"), ([], "nothing was read")):
        with pytest.raises(pml.CorpusError, match=f"the texts have no token to predict: {reason}"):
            tune(model, source)
    monkeypatch.setattr("transformers.training_args.is_accelerate_available", lambda *_: False)
    with pytest.raises(pml.BackendUnavailable, match=r"needs accelerate: pip install 'pymultiling\[tune\]'"):
        tune(model)
    with pytest.raises(ValueError, match="no parameter of the model has requires_grad"):
        tune(model.requires_grad_(False))


def test_training_prints_nothing_or_one_line_and_leaves_no_file(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tune(tiny_model("llama"), epochs=2)
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())
    tune(tiny_model("llama"), epochs=2, progress=True)
    out, err = capfd.readouterr()
    assert out == "" and re.fullmatch(r"training: 2 of 2 steps, \d+\.\d s\n", err)
