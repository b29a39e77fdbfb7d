"""Freezing the early layers of a model for training (arXiv 2503.11280)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from torch import nn

from pymultiling.models.decoder import Decoder
from pymultiling.models.pretrained import pretrained


def freeze(
    model: nn.Module, layers: Iterable[int] = range(8), *, embeddings: bool = True, head: bool = True
) -> list[str]:
    """Freezes some layers, the embeddings and the head of a decoder: their parameters get requires_grad=False.

    Nothing else is frozen: the final norm stays trainable. Fine-tuning in one language with the early layers frozen
    preserves what languages share there. Do not call `freeze` inside `train_only`: that freezes everything but its
    neurons, and at its end unfreezes what it froze.

    Source: arXiv 2503.11280.

    Args:
        model: a Hugging Face decoder of a supported family.
        layers: indices of the decoder layers to freeze, from 0. The default is the first eight.
        embeddings: freeze the input embeddings. Learned position embeddings stay trainable.
        head: freeze the language-model head, if the model has one. If embeddings and head are tied, they are one
            tensor, and both must be frozen or neither.

    Returns:
        The names, as in `model.named_parameters()`, of all parameters of these parts. To undo the call:
        `for name in names: model.get_parameter(name).requires_grad_(True)`.

    Raises:
        UnsupportedModel: the model's layers are not where its family has them, or no known family fits.
        ValueError: the model lacks a layer; or embeddings and head are tied, and only one of them is to be frozen.
    """
    decoder = Decoder(model)
    parts = [_layer(decoder, number) for number in layers]
    input_embeddings = pretrained(decoder.model).get_input_embeddings()
    output_head = cast("Callable[[], nn.Module | None]", decoder.model.get_output_embeddings)()
    if _parameter_ids(input_embeddings) & _parameter_ids(output_head) and embeddings != head:
        raise ValueError("the embeddings and the head of this model are one tensor (tied): freeze both or neither")
    if embeddings and input_embeddings is not None:
        parts.append(input_embeddings)
    if head and output_head is not None:
        parts.append(output_head)
    frozen_ids = {number for part in parts for number in _parameter_ids(part)}
    names = []
    for name, parameter in model.named_parameters():
        if id(parameter) in frozen_ids:
            parameter.requires_grad_(False)
            names.append(name)
    return names


def _parameter_ids(module: nn.Module | None) -> set[int]:
    return set() if module is None else {id(parameter) for parameter in module.parameters()}


def _layer(decoder: Decoder, number: int) -> nn.Module:
    count = len(decoder.layers)
    if not 0 <= number < count:
        raise ValueError(f"the model has no layer {number}: give layers from 0 to {count - 1}")
    return cast("nn.ModuleList", decoder.base_model.get_submodule(decoder.family.layers))[number]
