"""Blocks that end in any order, or in several threads: the last one makes the model what it was."""

from contextlib import ExitStack

import pytest
import torch
from torch import nn

import pymultiling as pml
from pymultiling.models.attention import listen_to_attention
from pymultiling.models.blocks import Block, blocks_on
from pymultiling.models.modes import evaluation_mode
from pymultiling.probes.hooks import Hooks
from tests.support.threads import assert_equal, at_the_same_time, deactivated, importance, logits, snapshot
from tests.support.tiny_models import random_neurons, tiny_model


def test_blocks_may_end_in_the_order_in_which_they_began():
    """A generator of blocks, or a stack for each of several requests, ends them so."""
    model = tiny_model("mixtral")
    a, b = random_neurons(model, seed=1), random_neurons(model, seed=2)
    before, only_b = snapshot(model), deactivated(model, [b, None])["logits"]
    first, second = ExitStack(), ExitStack()
    first.enter_context(pml.deactivate(model, [a, None]))
    first.enter_context(evaluation_mode(model.train()))
    second.enter_context(pml.deactivate(model, [b, None]))
    second.enter_context(evaluation_mode(model))
    first.close()
    assert not model.training and torch.equal(logits(model)["logits"], only_b)
    second.close()
    assert model.training and snapshot(model.eval()) == before


def test_a_training_model_is_in_training_mode_after_the_last_of_several_measurements():
    model = tiny_model("llama").train()
    model.model.layers[1].eval()
    before, alone = snapshot(model), importance(model)

    def measure() -> None:
        for _ in range(20):
            assert_equal(importance(model), alone)

    at_the_same_time(measure, measure, measure)
    assert snapshot(model) == before


def test_the_attention_implementation_is_back_after_the_last_block_unless_the_user_has_set_another():
    model = tiny_model("llama")
    first, second = Block(), Block()
    with second:
        with first:
            listen_to_attention(first, model.config, {})
            listen_to_attention(second, model.config, {})
        assert model.config._attn_implementation == "pymultiling_sdpa"
    assert model.config._attn_implementation == "sdpa"
    with Block() as third:
        listen_to_attention(third, model.config, {})
        model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    assert importance(model).keys() == set(pml.SITES) and model.config._attn_implementation == "eager"


def test_hooks_that_are_added_before_the_block_act_inside_it_alone_in_their_order():
    linear, calls = nn.Linear(2, 2), []
    hooks = Hooks()
    for name in ("a", "b"):
        hooks.before(linear, lambda module, args, name=name: calls.append(name))
    linear(torch.ones(2))
    assert calls == []
    with hooks:
        hooks.before(linear, lambda module, args: calls.append("c"))
        linear(torch.ones(2))
        assert calls == ["a", "b", "c"]
    linear(torch.ones(2))
    assert calls == ["a", "b", "c"] and not linear._forward_pre_hooks and "forward" not in vars(linear)


def test_a_block_whose_beginning_fails_leaves_nothing_attached():
    linear = nn.Linear(2, 2)
    before, hooks = sorted(vars(linear)), Hooks()

    def fail():
        raise KeyError("of the test")

    hooks.before(linear, lambda module, args: None)
    hooks.attach(fail)
    for _ in range(2):
        with pytest.raises(KeyError, match="of the test"), hooks:
            pass
        assert not linear._forward_pre_hooks and sorted(vars(linear)) == before
        assert not hooks.is_attached and hooks not in blocks_on(linear)
