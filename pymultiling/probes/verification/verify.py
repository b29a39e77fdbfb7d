"""Verifies a model in two short forwards: one as it is, one with some neurons off."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pymultiling.errors import UnsupportedModel
from pymultiling.models.attention import AttentionListener, listen_to_attention
from pymultiling.models.decoder import Decoder
from pymultiling.models.modes import evaluation_mode
from pymultiling.models.module_state import restored_buffers
from pymultiling.models.pretrained import pretrained, tensor_attribute
from pymultiling.models.unwrap import has_weights
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.neuron_changes import change_neurons
from pymultiling.probes.verification.body import check_body, example_of
from pymultiling.probes.verification.capture import LayerWatch
from pymultiling.probes.verification.off import OffWatch, neurons_off
from pymultiling.probes.verification.plan import Plan
from pymultiling.probes.verification.report import Comparisons, Verification
from pymultiling.probes.verification.states import StatesWatch
from pymultiling.probes.verification.thresholds import MARGIN, lengths_beyond, one_layer_of_each_kind
from pymultiling.probes.verification.values import ValuesWatch
from pymultiling.runtime.autocast import without_autocast

TOKENS = 64  # of the first forward
TOKENS_OFF = 8  # of each document of the second forward
SEED = 0


@torch.no_grad()
def verify(decoder: Decoder) -> Verification:
    """Compares what a model computes in 64 random tokens with what its weights, configuration and family say.

    The first forward has one document, the second three, one of them padded on the left, with some neurons off, as
    `deactivate` switches them off. Afterwards the model is bit for bit what it was. Random numbers of the user are not
    drawn.

    Models whose weights are not all in memory, or that are spread over processes, are not checked.
    """
    if decoder.tensor_parallel.count > 1:
        return Verification(notes=("the model is spread over processes, which is not checked",))
    if not has_weights(decoder.base_model):
        return Verification(notes=("weights of the model are not in memory, so that nothing was checked",))
    comparisons = Comparisons()
    whole = torch.ones(1, TOKENS, dtype=torch.bool)
    padded = torch.ones(3, TOKENS_OFF, dtype=torch.bool)
    padded[1, : TOKENS_OFF // 4] = False
    with restored_buffers(decoder.base_model), _eager(decoder.model):
        plan = Plan(whole, "as it is", scores=True)
        names = {module: name for name, module in decoder.model.named_modules()}
        with evaluation_mode(decoder.model):
            has_scores = _check(decoder, comparisons, plan, names)
            _check(decoder, comparisons, replace(plan, valid=padded, kind="off", scores=has_scores), names)
        if has_scores:
            _check_longer(decoder, comparisons)
    return comparisons.result()


@torch.no_grad()
def verify_body(decoder: Decoder, example: Any) -> Verification:
    """Compares what the model gives its base model with what it gets itself. No layer runs.

    Args:
        decoder: the model.
        example: `Verification.example` of the base model.
    """
    comparisons = Comparisons()
    if example is not None:
        with restored_buffers(decoder.model), evaluation_mode(decoder.model), _eager(decoder.model):
            check_body(decoder, comparisons, example)
    return comparisons.result()


@torch.no_grad()
def verify_copies(decoder: Decoder) -> Verification:
    """Does the part of `verify` that runs on copies of layers, beyond the lengths at which attention changes."""
    comparisons = Comparisons()
    with restored_buffers(decoder.base_model), _eager(decoder.model):
        _check_longer(decoder, comparisons)
    return comparisons.result()


def _check(decoder: Decoder, comparisons: Comparisons, plan: Plan, names: dict[nn.Module, str]) -> bool:
    """Runs one forward. Returns whether attention scores could be checked, as `plan` asks."""
    trial = Comparisons()
    try:
        _run(decoder, trial, plan, names)
    except UnsupportedModel as error:
        if not plan.scores:
            raise
        comparisons.depart("scores", str(error))
        try:
            return _check(decoder, comparisons, replace(plan, scores=False), names)
        except (ImportError, UnsupportedModel):
            raise error from None  # the model cannot run with this attention at all
    comparisons.add(trial)
    return plan.scores


def _check_longer(decoder: Decoder, comparisons: Comparisons) -> None:
    """Checks attention scores beyond the lengths at which attention changes, on a copy of one layer of each kind."""
    short_length, has_long = lengths_beyond(decoder, TOKENS - MARGIN)
    for length, cut_to in ((short_length, None), (TOKENS if has_long else None, TOKENS // 2)):
        if length is None:
            continue
        part = Comparisons()
        try:
            trial, names = one_layer_of_each_kind(decoder, cut_to)
            with evaluation_mode(trial.model):
                _run(trial, part, Plan(torch.ones(1, length, dtype=torch.bool), "scores", scores=True), names)
        except (UnsupportedModel, ValueError, TypeError, RuntimeError) as error:
            # Replaced forwards may belong to the original, so that a copy does not run as it does.
            comparisons.notes.append(
                f"attention was not compared beyond {TOKENS} tokens: a copy does not run ({error})"
            )
            continue
        where = f"in {length} tokens"
        if cut_to is not None:
            where += f" of a copy whose window and first context are cut down to {cut_to}"
        comparisons.add_scores(part, where)


def _run(decoder: Decoder, comparisons: Comparisons, plan: Plan, names: dict[nn.Module, str]) -> None:
    """Runs one forward. names: what modules of the layers are called in messages."""
    watches = [LayerWatch(decoder, layer, names, comparisons, plan) for layer in decoder.layers]
    with ExitStack() as stack:
        off_watches = []
        if plan.kind == "off":
            off_watches = [OffWatch(decoder, layer, names, comparisons, plan.valid) for layer in decoder.layers]
            early_hooks = stack.enter_context(Hooks())
            for index, layer in decoder.attention_layers.items():
                if layer.v is not None and layer.v_norm is None:
                    values = ValuesWatch(layer, layer.v, index, names, comparisons, len(plan.valid))
                    values.change(early_hooks)
            for off_watch in off_watches:
                off_watch.keep(early_hooks)
            stack.enter_context(change_neurons(decoder, [neurons_off(decoder)], warns_new_threads=False))
        hooks = stack.enter_context(Hooks())
        for off_watch in off_watches:
            off_watch.compare(hooks)
        listeners: dict[nn.Module, AttentionListener] = {}
        for watch in watches:
            listeners |= watch.attach(stack, hooks)
        if listeners:
            listen_to_attention(hooks, decoder.config, listeners)
        states = None if plan.kind != "as it is" else StatesWatch(decoder, names, comparisons, hooks)
        output = _forward(decoder, plan.valid)
    if states is not None:
        states.finish(output[0])
    if plan.kind == "off":
        comparisons.example = example_of(output)
    for watch in watches:
        watch.finish()


def _forward(decoder: Decoder, valid: Tensor) -> Any:
    """Runs the model with random tokens, and returns its output.

    Raises:
        UnsupportedModel: the model, as it is, does not run in documents that are padded on the left.
    """
    try:
        return decoder.forward(_random_tokens(decoder, valid), valid.long())
    except (UnsupportedModel, torch.OutOfMemoryError):
        raise
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        shape = f"{len(valid)} documents of {valid.shape[1]} tokens"
        padding = "" if valid.all() else ", one of them padded on the left, with attention_mask and position_ids"
        raise UnsupportedModel(f"{type(decoder.model).__name__} does not run with {shape}{padding}: {error}") from error


def _random_tokens(decoder: Decoder, valid: Tensor) -> Tensor:
    """Returns random tokens, (documents, length) int64, always the same ones."""
    vocabulary = tensor_attribute(pretrained(decoder.model).get_input_embeddings(), "weight").shape[0]
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.randint(vocabulary, valid.shape, generator=generator)
    tokens[-1] = tokens[0]  # the twin of `ValuesWatch`
    return tokens


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """Inside, compiled code runs as it is written, so that nothing is compiled for the check, and no autocast."""
    with ExitStack() as stack:
        for device in {parameter.device.type for parameter in model.parameters()}:
            stack.enter_context(without_autocast(device))
        if "torch._dynamo" in sys.modules:  # something may be compiled: modules, their forwards or a function in them
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
