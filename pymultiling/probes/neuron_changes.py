"""Changes activations of neurons during forwards: the hooks of `deactivate`, which verification uses too."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from pymultiling.models.checkpointing import remember_blocks
from pymultiling.models.decoder import AttentionLayer, Decoder, Layer
from pymultiling.models.experts import Experts, attach_change
from pymultiling.models.linear import Linear, device_of, dtype_of, inputs_of, outputs_of
from pymultiling.models.routing import Routed
from pymultiling.models.tensor_parallel import TensorParallel
from pymultiling.neurons.sets import NeuronSet
from pymultiling.ops import mask_neurons
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.row_sets import RowSets
from pymultiling.probes.set_masks import SetMasks, SiteIndices, SiteMembers, check_mean
from pymultiling.probes.switched_off import InputChange, mark_as_change, mark_as_switch

Threads: TypeAlias = Literal["own", "all"]
THREADS = ("own", "all")


@contextmanager
def change_neurons(
    decoder: Decoder,
    sets: Sequence[NeuronSet | None],
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    threads: Threads = "own",
    warns_new_threads: bool = True,
) -> Iterator[RowSets]:
    """Inside the block, the neurons of `sets` are scaled, or set to their mean.

    Args:
        decoder: the model.
        sets: the sets that rows of a batch can be under; None: no neurons are changed.
        scale: as in `deactivate`.
        mean: as in `deactivate`.
        threads: as in `deactivate`.
        warns_new_threads: as in `Block`.

    Yields:
        RowSets, whose `assign` chooses a set for each row. Until it is called, all rows are under the first set.

    Raises:
        UnsupportedModel: weights are not in memory.
        ValueError: `scale` is not finite, or `mean` is of another model, lacks a site of the sets, or is given together
            with a scale.
    """
    decoder.require_weights()
    if not math.isfinite(scale):
        raise ValueError(f"scale must be a finite number, got {scale}")
    check_mean(decoder, sets, scale, mean)
    set_masks = SetMasks(sets, len(decoder.layers), mean)
    # FFNs that may get the tokens of all rows in one dimension, so that the batch size is checked before them. With
    # family.ffn == "", the layer itself takes the place of the FFN.
    takes_flat = decoder.family.ffn == "" or any(layer.experts is not None for layer in decoder.layers)
    row_sets = RowSets(decoder.model, takes_flat)
    switches_off = scale == 0 and mean is None
    hooks = Hooks(threads == "all", warns_new_threads=warns_new_threads)
    remember_blocks(hooks, decoder.layer_modules())
    for number, layer in enumerate(decoder.layers):
        ffn = layer.ffn_parts
        if decoder.family.ffn == "" or isinstance(ffn, Experts):
            hooks.before_with_keywords(layer.ffn, row_sets.check_input)
        if isinstance(ffn, Experts):
            of_experts, weight = {"ffn": slice(ffn.width)}, ffn.down
            found = set_masks.of_module(
                number, {"ffn": slice(None)}, ffn.width, weight.device, weight.dtype, of_experts
            )
            if found is not None:
                routed_change = _routed_change(row_sets, ffn, found[0], scale, found[1])
                if switches_off:
                    mark_as_switch(routed_change, routed_change)
                attach_change(hooks, ffn, routed_change)
        for module, on_input, indices, members in find_changed_modules(layer):
            width = inputs_of(module) if on_input else outputs_of(module)
            found = set_masks.of_module(number, indices, width, device_of(module), dtype_of(module), members)
            if found is None:
                continue
            masks, values = found
            change = _tensor_change(decoder.tensor_parallel, row_sets, masks, scale, values)
            if on_input:
                hook = _input_hook(change)
                mark_as_change(hook, InputChange(partial(_changed_copy, change), mean is not None))
                if switches_off:
                    mark_as_switch(hook, partial(_changed_copy, change))
                hooks.before(module, hook)
            else:
                hooks.after(module, _output_hook(change))
    with hooks:
        yield row_sets


class ChangedModule(NamedTuple):
    """A linear module whose inputs or outputs are neurons.

    Attributes:
        module: the module.
        on_input: True if its inputs are neurons, False if its outputs are.
        indices: the indices of each site among them.
        members: which neurons of each site of the layer these are: of `ffn` of a mixture, those of the shared expert.
    """

    module: Linear
    on_input: bool
    indices: SiteIndices
    members: SiteMembers


def find_changed_modules(layer: Layer) -> Iterator[ChangedModule]:
    """Yields the linear modules of a layer whose inputs or outputs are neurons, except those of experts."""
    if layer.dense is not None:
        yield ChangedModule(layer.dense.down, True, {"ffn": slice(None)}, {"ffn": layer.dense_members})
    if not isinstance(layer, AttentionLayer):
        return
    yield ChangedModule(layer.o, True, {"o": slice(None)}, {"o": slice(layer.width("o"))})
    outputs: dict[Linear, ChangedModule] = {}  # the parts of a fused projection share a module
    for site, projection, members in layer.projections():
        changed = outputs.setdefault(projection.module, ChangedModule(projection.module, False, {}, {}))
        changed.indices[site], changed.members[site] = projection.index(), members
    yield from outputs.values()


# change(x, is_only_hook): in place only where no other hook has seen x, because it may keep it.
_TensorChange: TypeAlias = Callable[[Tensor, bool], Tensor]


def _changed_copy(change: _TensorChange, x: Tensor) -> Tensor:
    return change(x, False)


def _input_hook(change: _TensorChange) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(args[0], len(module._forward_pre_hooks) == 1), *args[1:])

    return hook


def _output_hook(change: _TensorChange) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return change(output, len(module._forward_hooks) == 1)

    return hook


def _tensor_change(
    tensor_parallel: TensorParallel, row_sets: RowSets, all_masks: Tensor, scale: float, all_values: Tensor | None
) -> _TensorChange:
    """Returns the change of a tensor.

    Args:
        tensor_parallel: says which part of the module's inputs or outputs this process has.
        row_sets: the set of each row.
        all_masks: (sets, width) bool, for the whole module.
        scale: as in `deactivate`.
        all_values: (width,), the values that neurons are set to, for the whole module; None: they are scaled.
    """

    def change(x: Tensor, is_only_hook: bool) -> Tensor:
        flat, ids = x.flatten(0, -2), row_sets.sets_of_tokens(x)
        local = tensor_parallel.local_slice(x.shape[-1], all_masks.shape[1])
        masks = all_masks[:, local]
        # Under autocast the activations have another dtype than the weights.
        values = None if all_values is None else all_values[local].to(x.dtype)
        if masks.device != x.device:  # in a replica for another GPU
            masks, values = masks.to(x.device), None if values is None else values.to(x.device)
        if torch.compiler.is_compiling():
            return mask_neurons(flat, masks, ids, scale=scale, values=values).view(x.shape)
        if _has_forward_derivative(x):  # plain PyTorch supports this, a custom operator does not
            return mask_neurons(flat, masks, ids, scale=scale, values=values, backend="torch").view(x.shape)
        inplace = is_only_hook and not (x.requires_grad and torch.is_grad_enabled())
        return mask_neurons(flat, masks, ids, scale=scale, values=values, inplace=inplace).view(x.shape)

    return change


def _routed_change(
    row_sets: RowSets, experts: Experts, masks: Tensor, scale: float, all_values: Tensor | None
) -> Callable[[Routed], Tensor]:
    """Returns the change of the hidden activations of experts. Its arguments are as in `_tensor_change`."""

    def change(routed: Routed) -> Tensor:
        values = None if all_values is None else all_values.to(routed.hidden.dtype)
        plain = not torch.compiler.is_compiling() and _has_forward_derivative(routed.hidden)
        return experts.mask_hidden(routed, masks, row_sets.sets_of_tokens(routed.states), scale, values, plain)

    return change


def _has_forward_derivative(x: Tensor) -> bool:
    """Whether x is inside a transform of torch.func, or has a tangent."""
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        return True
    return unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]
