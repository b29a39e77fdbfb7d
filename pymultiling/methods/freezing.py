"""Training all of a model but its early layers (arXiv 2503.11280)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from pymultiling.models.decoder import Decoder


def freeze(
    model: nn.Module, layers: Iterable[int] = range(8), *, embeddings: bool = True, head: bool = True
) -> list[str]:
    """Turns requires_grad off for exactly these parts of a decoder, and for nothing else: the final norm trains on.

    Fine-tuning in one language with the early layers frozen keeps what languages share there. Source: arXiv 2503.11280.
    Not inside `train_only`, which freezes all but its neurons, and at its end takes back what it froze.

    Args:
        model: a Hugging Face decoder of a supported family.
        layers: the decoder layers, from 0; the first eight unless others are given.
        embeddings: freeze the input embeddings; positions that are learned train on.
        head: freeze the language-model head, where the model has one. Where embeddings and head are tied, they are one
            tensor, which is frozen when both are asked for.

    Returns:
        The names, as in `model.named_parameters()`, of all parameters in these parts. To undo it:
        `for name in names: model.get_parameter(name).requires_grad_(True)`.

    Raises:
        UnsupportedModel: the model's layers are not where a known family has them.
        ValueError: the model lacks a layer; embeddings and head are tied, and only one of them is to be frozen.
    """
    decoder = Decoder(model)
    parts = [_layer(decoder, number) for number in layers]
    ends = (model.get_input_embeddings(), embeddings), (model.get_output_embeddings(), head)
    first, last = ({id(one) for one in part.parameters()} if part is not None else set() for part, _ in ends)
    if first & last and embeddings != head:
        raise ValueError("the embeddings and the head of this model are one tensor (tied): freeze both or neither")
    parts += [part for part, wanted in ends if wanted and part is not None]
    chosen = {id(parameter) for part in parts for parameter in part.parameters()}
    names = []
    for name, parameter in model.named_parameters():
        if id(parameter) in chosen:
            parameter.requires_grad_(False)
            names.append(name)
    return names


def _layer(decoder: Decoder, number: int) -> nn.Module:
    count = len(decoder.layers)
    if not 0 <= number < count:
        raise ValueError(f"the model has no layer {number}: give layers from 0 to {count - 1}")
    return decoder.base_model.get_submodule(decoder.family.layers)[number]
