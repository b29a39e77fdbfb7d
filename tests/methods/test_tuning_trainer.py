"""pml.train_only under Hugging Face's Trainer and accelerate."""

import copy

import pytest
import torch
from transformers import Trainer, TrainingArguments

from pymultiling.methods.tuning import train_only
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model

pytest.importorskip("accelerate", reason="Trainer needs accelerate")

RECORDS = [
    {"input_ids": tokens, "labels": tokens} for seed in range(8) for tokens in tiny_batch((9,), seed=seed)["input_ids"]
]


def trainer(model, folder, **options) -> Trainer:
    arguments = dict(max_steps=4, per_device_train_batch_size=2, learning_rate=1e-2, lr_scheduler_type="constant")
    arguments |= dict(use_cpu=True, report_to=[], disable_tqdm=True, logging_steps=1, save_strategy="no")
    return Trainer(model, TrainingArguments(str(folder), **arguments | options), train_dataset=RECORDS)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trainer_trains_only_the_neurons(tmp_path, checkpointing):
    model = tiny_model("phi3")
    neurons, before = random_neurons(model), copy.deepcopy(model.state_dict())
    with train_only(model, neurons) as trained:
        run = trainer(model, tmp_path, max_steps=3, gradient_checkpointing=checkpointing)
        run.train()
        sizes = sum(parameter.numel() for group in run.optimizer.param_groups for parameter in group["params"])
        assert sizes == sum(parameter.numel() for parameter in trained.parameters())
        assert all(parameter.abs().min() > 0 for parameter in trained.parameters())
        trained.merge()
    moved = {key: (value != before[key]).any() for key, value in model.state_dict().items()}
    assert moved["model.layers.0.mlp.gate_up_proj.weight"] and not moved["model.embed_tokens.weight"]


def test_trainer_resumes_from_its_checkpoint(tmp_path):
    model = tiny_model("llama", torch.float64)
    neurons, again = random_neurons(model), copy.deepcopy(model)
    options = dict(save_strategy="steps", save_steps=2)
    with train_only(model, neurons) as trained:
        trainer(model, tmp_path, **options).train()
        trained.merge()
    with train_only(again, neurons) as trained:
        trainer(again, tmp_path, **options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        trained.merge()
    for resumed, expected in zip(again.parameters(), model.parameters()):
        torch.testing.assert_close(resumed, expected, rtol=1e-6, atol=1e-6)


def test_accelerate_restores_the_differences_of_its_state(tmp_path):
    from accelerate import Accelerator

    model = tiny_model("llama")
    with train_only(model, random_neurons(model)) as trained:
        accelerator = Accelerator(cpu=True)
        prepared, optimizer = accelerator.prepare(model, torch.optim.AdamW(trained.parameters(), lr=1e-2))
        batch = tiny_batch((9, 9))
        accelerator.backward(prepared(**batch, labels=batch["input_ids"]).loss)
        optimizer.step()
        saved = [parameter.detach().clone() for parameter in trained.parameters()]
        accelerator.save_state(str(tmp_path))
        accelerator.backward(prepared(**batch, labels=batch["input_ids"]).loss)
        optimizer.step()
        accelerator.load_state(str(tmp_path))
        for parameter, expected in zip(trained.parameters(), saved):
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-6)


def test_differences_work_in_modules_whose_forward_accelerate_replaced():
    from accelerate.hooks import attach_align_device_hook

    model, batch = tiny_model("phi3", torch.float64), tiny_batch((9, 9))
    plain = copy.deepcopy(model)
    attach_align_device_hook(model, execution_device="cpu")  # as device_map does
    losses = []
    for some_model in (plain, model):
        with train_only(some_model, random_neurons(some_model)) as trained, torch.no_grad():
            for parameter in trained.parameters():
                parameter.fill_(0.1)
            losses.append(some_model(**batch, labels=batch["input_ids"]).loss)
    assert losses[0] == losses[1]
