"""What torch runs again, or in threads of its own, under a block: checkpointed layers and replicas for DataParallel."""

from functools import partial

import pytest
import torch

import pymultiling as pml
from tests.support.threads import BATCH, NAMES, assert_equal, at_the_same_time, deactivated, logits, snapshot
from tests.support.tiny_models import random_neurons, tiny_model


def gradients(model) -> list[torch.Tensor]:
    """Returns the gradients of all parameters, and forgets them."""
    values = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    return values


def loss(model) -> torch.Tensor:
    torch.manual_seed(0)  # of dropout
    return model(**BATCH, labels=BATCH["input_ids"], use_cache=False).loss


@pytest.mark.parametrize("where", ["after the block", "in another thread", "in another block", "inside"])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_checkpointed_layers_are_recomputed_with_the_neurons_of_the_forward(name, reentrant, where):
    model = tiny_model(name).train()
    a, b = random_neurons(model, seed=1), random_neurons(model, seed=2)
    with pml.deactivate(model, a), pml.deactivate(model, b, scale=2.0):
        loss(model).backward()
    truth = gradients(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=reentrant))
    model.enable_input_require_grads()
    before = snapshot(model)
    with pml.deactivate(model, a), pml.deactivate(model, b, scale=2.0):
        value = loss(model)
        if where == "inside":
            value.backward()
    if where == "after the block":
        value.backward()
    elif where == "in another thread":
        at_the_same_time(value.backward)
    elif where == "in another block":
        with pml.deactivate(model, b):
            value.backward()
    for gradient, expected in zip(gradients(model), truth, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert snapshot(model) == before


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_of_the_user_are_recomputed_inside_the_block(reentrant):
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]  # a GPU's backward pass has its own thread
    for device in devices:
        model = tiny_model("llama").to(device)
        layer = model.model.layers[0].mlp
        x = torch.randn(2, 3, 32, device=device, requires_grad=True)
        with pml.deactivate(model, random_neurons(model, 0.5)):
            layer(x).square().sum().backward()
            truth, x.grad = x.grad, None
            torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
        assert torch.equal(x.grad, truth)


def replicate(model) -> torch.nn.Module:
    """Makes a replica as torch.nn.DataParallel does, on the same device."""
    modules = list(model.modules())
    replicas = {module: module._replicate_for_data_parallel() for module in modules}
    for module, replica in replicas.items():
        for name, child in module._modules.items():
            replica._modules[name] = None if child is None else replicas[child]
        for name, parameter in module._parameters.items():
            replica._parameters[name] = None if parameter is None else parameter.detach().clone()
    return replicas[model]


@pytest.mark.parametrize("name", NAMES)
def test_replicas_run_under_the_blocks_of_the_thread_that_made_them_with_their_own_weights(name):
    model = tiny_model(name)
    neurons, before = random_neurons(model), snapshot(model)
    plain, off = logits(model), deactivated(model, neurons)
    with pml.deactivate(model, neurons):
        replica = replicate(model)
        [result] = at_the_same_time(partial(logits, replica))
        assert_equal(result, off)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        [result] = at_the_same_time(partial(logits, replica))
        assert_equal(result, off)
    assert_equal(logits(replica), plain)
    assert snapshot(model) == before
