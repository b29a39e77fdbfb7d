"""Verifies a model in two short forwards: one as it is, one with some neurons set to zero."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from pymultiling.errors import UnsupportedModel
from pymultiling.models.attention import AttentionListener, listen_to_attention
from pymultiling.models.decoder import Decoder
from pymultiling.models.modes import evaluation_mode
from pymultiling.models.pretrained import pretrained, tensor_attribute
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.verification.capture import LayerWatch, Plan
from pymultiling.probes.verification.report import Comparisons, Verification
from pymultiling.probes.verification.restoring import restored_state
from pymultiling.probes.verification.states import StatesWatch

TOKENS = 64  # of the first forward
TOKENS_ZEROED = 16  # of each document of the second forward
SEED = 0


@torch.no_grad()
def verify(decoder: Decoder) -> Verification:
    """Compares what a model computes in 64 random tokens with what its weights, configuration and family say.

    The first forward has one document, the second two, one of them padded on the left, with some neurons of q, k and v
    set to zero by hooks. Afterwards the model is bit for bit what it was. Random numbers of the user are not drawn.

    Models whose weights are not all in memory, or that are spread over processes, are not checked.
    """
    if decoder.tensor_parallel.count > 1:
        return Verification(notes=("the model is spread over processes, which is not checked",))
    if any(parameter.is_meta for parameter in decoder.base_model.parameters()):
        return Verification(notes=("weights of the model are not in memory, so that nothing was checked",))
    comparisons = Comparisons()
    whole = torch.ones(1, TOKENS, dtype=torch.bool)
    padded = torch.ones(2, TOKENS_ZEROED, dtype=torch.bool)
    padded[1, : TOKENS_ZEROED // 4] = False
    with restored_state(decoder.base_model), evaluation_mode(decoder.model), _eager(decoder.model):
        has_scores = _check(decoder, comparisons, Plan(whole, zeroed=False, scores=True))
        _check(decoder, comparisons, Plan(padded, zeroed=True, scores=has_scores))
    return comparisons.result()


def _check(decoder: Decoder, comparisons: Comparisons, plan: Plan) -> bool:
    """Runs one forward. Returns whether attention scores could be checked, as `plan` asks."""
    trial = Comparisons()
    try:
        _run(decoder, trial, plan)
    except UnsupportedModel as error:
        if not plan.scores:
            raise
        comparisons.depart("scores", str(error))
        return _check(decoder, comparisons, Plan(plan.valid, plan.zeroed, scores=False))
    comparisons.add(trial)
    return plan.scores


def _run(decoder: Decoder, comparisons: Comparisons, plan: Plan) -> None:
    names = {module: name for name, module in decoder.model.named_modules()}
    watches = [LayerWatch(decoder, layer, names, comparisons, plan) for layer in decoder.layers]
    with ExitStack() as stack, Hooks() as hooks:
        listeners: dict[nn.Module, AttentionListener] = {}
        for watch in watches:
            listener = watch.attach(stack, hooks)
            if listener is not None:
                listeners[watch.layer.attention] = listener
        if listeners:
            listen_to_attention(hooks, decoder.model, listeners)
        states = None if plan.zeroed else StatesWatch(decoder, names, comparisons, hooks)
        output = decoder.forward(_random_tokens(decoder, plan.valid), plan.valid.long())
    if states is not None:
        states.finish(output[0])
    for watch in watches:
        watch.finish()


def _random_tokens(decoder: Decoder, valid: Tensor) -> Tensor:
    """Returns random tokens, (documents, length) int64, always the same ones."""
    vocabulary = tensor_attribute(pretrained(decoder.model).get_input_embeddings(), "weight").shape[0]
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(vocabulary, valid.shape, generator=generator)


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """Inside, compiled modules run as they are written, so that nothing is compiled for the check, and no autocast."""
    with ExitStack() as stack:
        for device in {parameter.device.type for parameter in model.parameters()}:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if any(_is_compiled(module) for module in model.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
