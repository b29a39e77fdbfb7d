"""Switching neurons off inside a model: their activations are zeroed on the way, the weights stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pymultiling.models.decoder import Decoder
from pymultiling.models.hooks import Hooks
from pymultiling.neurons import NeuronSet
from pymultiling.ops import mask_neurons


@contextmanager
def deactivate(model: nn.Module, neurons: NeuronSet) -> Iterator[nn.Module]:
    """Every forward inside the block runs as if the parameters of `neurons` were zero; weights are not touched.

    FFN neurons are zeroed at the input of the down projection, O neurons at the input of o_proj, and Q, K and V neurons
    at the output of their projection (bias included). Contexts nest: the union is off. Removed on exit, also after an
    exception. Source: arXiv 2402.18815, section 2.

    Args:
        model: a Hugging Face decoder of a supported family.
        neurons: the set to switch off.

    Yields:
        The model.

    Raises:
        UnsupportedModel: the model's neurons are not where a known family has them.
        ValueError: the set is of a model of another shape.
    """
    decoder = Decoder(model)
    decoder.require_weights()
    neurons.check_fits(decoder.widths(), len(decoder.layers))
    with Hooks() as hooks:
        for index, layer in enumerate(decoder.layers):
            off = {site: mask[index] for site, mask in neurons.sites.items() if mask[index].any()}
            for site, linear in (("ffn", layer.down), ("o", layer.o)):
                if site in off:
                    hooks.before(linear, _input_mask(off[site].to(linear.weight.device)))
            for module, mask in _output_masks(layer, off).items():
                hooks.after(module, _output_mask(mask))
        yield model


def _output_masks(layer, off: dict[str, Tensor]) -> dict[nn.Module, Tensor]:
    """For each projection module its (rows,) mask; the parts of a fused projection share one."""
    masks: dict[nn.Module, Tensor] = {}
    for site, projection in (("q", layer.q), ("k", layer.k), ("v", layer.v)):
        if site in off:
            weight = projection.module.weight
            mask = masks.setdefault(
                projection.module, torch.zeros(weight.shape[0], dtype=torch.bool, device=weight.device)
            )
            projection.of(mask).copy_(off[site])
    return masks


def _input_mask(mask: Tensor):
    return lambda _, args: (_masked(args[0], mask), *args[1:])


def _output_mask(mask: Tensor):
    return lambda _, args, output: _masked(output, mask)


def _masked(x: Tensor, mask: Tensor) -> Tensor:
    return mask_neurons(x.flatten(0, -2), mask[None]).view(x.shape)
