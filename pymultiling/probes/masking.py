"""Switching neurons off inside a model: their activations are changed on the way, the weights stay as they are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from pymultiling.models.decoder import Decoder, Layer
from pymultiling.models.experts import Change, Experts, Routed, changing
from pymultiling.models.linear import weight_of
from pymultiling.models.spread import TensorParallel
from pymultiling.neurons.sets import NeuronSet
from pymultiling.ops import mask_neurons
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.row_sets import Rows, checked_rows
from pymultiling.probes.set_masks import Parts, check_mean, masks_of, values_of


@contextmanager
def deactivate(
    model: nn.Module,
    neurons: NeuronSet | Sequence[NeuronSet | None],
    rows: Tensor | Sequence[int] | None = None,
    *,
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
) -> Iterator[nn.Module]:
    """Every forward inside the block runs as if the parameters of `neurons` were zero, or scaled; weights are not touched.

        x[n] becomes scale x[n], or mean[n], for every neuron n of the set

    FFN neurons are changed at the input of the down projection, O neurons at the input of o_proj, and Q, K and V neurons
    at the output of their projection (bias included). Neurons of an expert are changed in the tokens that are routed to it,
    and its router stays as it is. Given several sets, each row of the batch runs under its own, in the same forward.
    Contexts nest, the inner one's change follows the outer one's: with scale 0 the union is off. All is removed on exit,
    also after an exception. Where activations are computed again for gradients (checkpointing), the backward pass belongs
    inside. Source: arXiv 2402.18815, section 2.

    Args:
        model: a Hugging Face decoder of a supported family; it may be compiled.
        neurons: the set to switch off, or a list of sets, with None for rows that run as they are.
        rows: with a list, the place in it of each row's set, (batch,) int; None: row r is under set r. In `model.generate`
            these are the prompts' rows; the beams and samples of a prompt are under its set.
        scale: 0 switches off; 2 doubles the neurons' activations.
        mean: {site: (layers, neurons)}, values that the neurons are set to, such as those of `mean_activations`.

    Yields:
        The model.

    Raises:
        UnsupportedModel: the model's neurons are not where a known family has them.
        ValueError: a set is of a model of another shape; `rows` name a set that is not there, or are not as many as the
            batch has; `mean` lacks a site of the sets, or comes with a scale.

    Warns:
        UserWarning: a set has no neurons.
    """
    decoder = Decoder(model)
    several = not isinstance(neurons, NeuronSet)
    if rows is not None and not several:
        raise ValueError("rows choose among several sets: give a list of them")
    if several and (isinstance(neurons, Mapping) or not neurons):
        raise ValueError("looked for a set of neurons or a list of some; of a dictionary give list(sets.values())")
    named = {f"set {place}": one for place, one in enumerate(neurons)} if several else {"the set": neurons}
    check_sets(decoder, named)
    with change_neurons(decoder, list(named.values()), scale, mean) as rows_of_sets, ExitStack() as stack:
        if several:
            rows_of_sets.assign(checked_rows(rows, len(named)))
            stack.enter_context(rows_of_sets.in_generate())
        yield model


def check_sets(decoder: Decoder, named: Mapping[str, NeuronSet | None]) -> None:
    """ValueError where a set is of a model of another shape, a warning where it is empty; both by its name."""
    for name, one in named.items():
        if one is None:
            continue
        one.check_fits(decoder.widths(), len(decoder.layers), name)
        if len(one) == 0:
            warnings.warn(f"{name} has no neurons: under it the model runs as it is")


@contextmanager
def change_neurons(
    decoder: Decoder, sets: Sequence[NeuronSet | None], scale: float = 0.0, mean: Mapping[str, Tensor] | None = None
) -> Iterator[Rows]:
    """Inside, neurons are scaled, or set to their mean; gives what assigns a set to each row, the first until then."""
    decoder.require_weights()
    if not math.isfinite(scale):
        raise ValueError(f"scale must be a finite number, got {scale}")
    check_mean(decoder, sets, scale, mean)

    def found(index: int, parts: Parts, width: int, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        masks = masks_of(sets, index, parts, width, weight.device)
        return masks, None if mean is None else values_of(mean, index, parts, width, weight)

    rows = Rows(decoder.model)
    with ExitStack() as stack, Hooks() as hooks:
        for index, layer in enumerate(decoder.layers):
            if decoder.family.ffn == "" or layer.experts is not None:
                hooks.before(layer.ffn, rows.see, with_kwargs=True)
            if layer.experts is not None:
                experts, down = layer.experts, layer.experts.module.down_proj
                masks, values = found(index, {"ffn": slice(None)}, experts.width, down)
                if masks.any():
                    stack.enter_context(changing(experts, _change_routed(rows, experts, masks, scale, values)))
            for module, on_input, parts in places(layer):
                weight = weight_of(module)
                masks, values = found(index, parts, weight.shape[on_input], weight)
                if not masks.any():
                    continue
                change = _change(decoder.tensor_parallel, rows, masks, scale, values)
                # What somebody else's hook has seen, and may have kept, is not written into.
                if on_input:

                    def before(module, args, change=change):
                        return (change(args[0], len(module._forward_pre_hooks) == 1), *args[1:])

                    hooks.before(module, before)
                else:

                    def after(module, args, output, change=change):
                        return change(output, len(module._forward_hooks) == 1)

                    hooks.after(module, after)
        yield rows


def places(layer: Layer) -> Iterator[tuple[nn.Module, bool, Parts]]:
    """Where neurons are changed, but for those of experts: a linear module, whether at its input, and the sites' parts."""
    if layer.experts is None:
        yield layer.down, True, {"ffn": slice(None)}
    yield layer.o, True, {"o": slice(None)}
    outputs: dict[nn.Module, Parts] = {}  # the parts of a fused projection share a module
    for site, projection in (("q", layer.q), ("k", layer.k), ("v", layer.v)):
        outputs.setdefault(projection.module, {})[site] = projection.place()
    for module, parts in outputs.items():
        yield module, False, parts


def _change(
    spread: TensorParallel, rows: Rows, all_masks: Tensor, scale: float, all_values: Tensor | None
) -> Callable[[Tensor, bool], Tensor]:
    def change(x: Tensor, ours: bool) -> Tensor:
        flat, ids = x.flatten(0, -2), rows.of_tokens(x)
        own = spread.own(x.shape[-1], all_masks.shape[1])
        masks = all_masks[:, own]
        added = None if all_values is None else all_values[own].to(x.dtype)  # autocast's is another than the weights'
        if torch.compiler.is_compiling():
            return mask_neurons(flat, masks, ids, scale=scale, values=added).view(x.shape)
        if _differentiated_forward(x):  # which plain PyTorch knows, and a custom operator does not
            return mask_neurons(flat, masks, ids, scale=scale, values=added, backend="torch").view(x.shape)
        inplace = ours and not (x.requires_grad and torch.is_grad_enabled())
        return mask_neurons(flat, masks, ids, scale=scale, values=added, inplace=inplace).view(x.shape)

    return change


def _change_routed(rows: Rows, experts: Experts, masks: Tensor, scale: float, values: Tensor | None) -> Change:
    def change(routed: Routed) -> Tensor:
        added = None if values is None else values.to(routed.hidden.dtype)
        plain = not torch.compiler.is_compiling() and _differentiated_forward(routed.hidden)
        return experts.masked(routed, masks, rows.of_tokens(routed.states), scale, added, plain)

    return change


def _differentiated_forward(x: Tensor) -> bool:
    """Whether x is inside torch.func's transforms, or has a tangent."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x) or unpack_dual(x).tangent is not None
