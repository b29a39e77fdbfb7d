"""A model passes its tokens and mask on to its base model as they are, whose forward is what is measured."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pymultiling.models.attached import replace
from pymultiling.models.blocks import Block
from pymultiling.models.decoder import Decoder, model_device
from pymultiling.models.pretrained import class_name, pretrained, uncompiled
from pymultiling.models.unwrap import body_of, without_head
from pymultiling.probes.verification import advice
from pymultiling.probes.verification.report import Comparisons

TENSORS = ("input_ids", "inputs_embeds", "attention_mask", "position_ids")
MASK = ((1, 1), (0, 1))  # two documents of two tokens, one of them padded on the left


class _Call(NamedTuple):
    """A call of the base model: its arguments by name, and its parameters during the call."""

    arguments: dict[str, Any]
    parameters: list[Tensor]


@dataclass
class _Stub:
    """What the base model returns instead of running, and the calls it gets."""

    output: Any
    calls: list[_Call] = field(default_factory=list)


def example_of(output: Any) -> Any:
    """Returns a base model's output without its tokens, so that a head has nothing to compute."""
    first, hidden = next(iter(output)), output[0][: len(MASK), :0].clone()
    return (hidden, *output[1:]) if isinstance(output, tuple) else type(output)(**{**output, first: hidden})


def check_body(decoder: Decoder, comparisons: Comparisons, example: Any) -> None:
    """Calls the model and its base model with the same tokens, and compares what reaches the base model.

    No layer runs: meanwhile the base model returns hidden states of an earlier forward.

    Args:
        decoder: the model.
        comparisons: gets the result.
        example: what `example_of` gave.
    """
    model, base = decoder.model, decoder.base_model
    if model is base:
        return
    body = base
    if decoder.family.causal:
        # OPT's is a part of its base model.
        body = without_head(uncompiled(body_of(model)))
    stub = _Stub(example)
    device = model_device(model)
    mask = torch.tensor(MASK, device=device)
    tokens = mask + torch.arange(2, device=device)  # 1 and 2, or 0 and 2
    inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
    name, problem = class_name(model), None
    with Block() as block:
        replace(block, body, "forward", stub, _record)
        base(**inputs)
        (direct,), stub.calls = stub.calls, []
        try:
            model(**inputs)
        except Exception as error:  # noqa: BLE001, what comes after the base model is not measured, whatever it raises
            problem = error
    if len(stub.calls) != 1:
        why = f"calls its base model {len(stub.calls)} times in a forward"
        if problem is not None and not stub.calls:
            why = f"does not run with tokens and a mask alone ({problem})"
        comparisons.depart("body", f"{name} {why}: {advice.BODY}")
        return
    (call,) = stub.calls
    for argument in TENSORS:
        if not _is_alike(decoder, argument, direct.arguments, call.arguments):
            comparisons.depart("body", f"{name} gives its base model another {argument} than it gets: {advice.BODY}")
            return
    for (parameter_name, parameter), used in zip(body.named_parameters(), call.parameters):
        if used.data_ptr() != parameter.data_ptr() and not torch.equal(used, parameter):
            comparisons.depart("body", f"{name} runs its base model with another {parameter_name}: {advice.BODY}")
            return
    comparisons.agree("body")


def _record(
    module: nn.Module,
    original: Callable[..., Any],
    items: Sequence[_Stub],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    names = [name for name in inspect.signature(original).parameters if name != "self"]
    items[-1].calls.append(_Call({**dict(zip(names, args)), **kwargs}, list(module.parameters())))
    return items[-1].output


def _is_plain_mask(mask: object) -> bool:
    """Whether a mask is None or (documents, tokens), and not one for each query, or one for each kind of layer."""
    return mask is None or (isinstance(mask, Tensor) and mask.ndim == 2)


def sees_as_expected(mask: object) -> bool:
    """Whether each token of MASK sees itself and those before it, by a mask (documents, 1, queries, keys).

    Models that take images too prepare such masks. They are bool, or numbers that are added to attention scores.
    """
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        return False
    sees = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    is_token = torch.tensor(MASK, dtype=torch.bool, device=mask.device)
    expected = is_token[:, None, :] & torch.ones(2, 2, dtype=torch.bool, device=mask.device).tril()
    return torch.equal(sees[:, 0][is_token], expected[is_token])


def _is_alike(decoder: Decoder, argument: str, expected: dict[str, Any], given: dict[str, Any]) -> bool:
    """Whether a call gives an argument as the direct call does. Embeddings may take the place of tokens.

    Positions may be given where the base model would count them itself, from the mask or without it.
    """
    ours, theirs = expected.get(argument), given.get(argument)
    if argument == "position_ids" and ours is None and theirs is not None:
        mask = torch.tensor(MASK, device=theirs.device)
        counted = (mask.cumsum(-1) - 1).clamp(min=0), torch.arange(mask.shape[1], device=theirs.device)
        return any(torch.equal(theirs.expand_as(mask), each.expand_as(mask)) for each in counted)
    if argument == "input_ids" and theirs is None and given.get("inputs_embeds") is not None:
        return True  # compared as embeddings
    if argument == "inputs_embeds" and ours is None and theirs is not None:
        ours = pretrained(decoder.model).get_input_embeddings()(expected["input_ids"])
    if argument == "attention_mask" and not _is_plain_mask(theirs):
        return all(map(sees_as_expected, theirs.values() if isinstance(theirs, dict) else (theirs,)))
    if ours is None or theirs is None:
        return ours is theirs
    return isinstance(theirs, Tensor) and ours.shape == theirs.shape and torch.equal(ours, theirs.to(ours))
