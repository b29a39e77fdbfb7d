"""Switches neurons off inside a model: their activations are changed during the forward, and weights stay unchanged."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from pymultiling.models.checkpointing import remember_blocks
from pymultiling.models.decoder import Decoder, DenseFFN, Layer
from pymultiling.models.experts import Experts, attach_change
from pymultiling.models.linear import Linear, weight_of
from pymultiling.models.routing import Routed
from pymultiling.models.tensor_parallel import TensorParallel
from pymultiling.models.unwrap import refuse_replicas
from pymultiling.neurons.sets import NeuronSet
from pymultiling.ops import mask_neurons
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.row_sets import RowSets, check_rows
from pymultiling.probes.set_masks import SetMasks, SiteIndices, check_mean
from pymultiling.probes.switched_off import mark_as_switch
from pymultiling.probes.verification.entry import require_verified, sites_of_sets

Threads: TypeAlias = Literal["own", "all"]
THREADS = ("own", "all")


@contextmanager
def deactivate(
    model: nn.Module,
    neurons: NeuronSet | Sequence[NeuronSet | None],
    rows: Tensor | Sequence[int] | None = None,
    *,
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    threads: Threads = "own",
    verify: bool = True,
) -> Iterator[nn.Module]:
    """Switches neurons off: inside the block, the model runs as if all parameters of the neurons were zero.

        x[n] becomes scale x[n], or mean[n], for every neuron n of the set

    x is the input of the down projection for FFN neurons, the input of o_proj for O neurons, and the output of the
    projection (bias included) for Q, K and V neurons. Weights are not changed. Neurons of an expert are changed in the
    tokens that are routed to it, and the router is not changed.

    If several sets are given, each row of the batch runs under its own set, in the same forward. Contexts can be
    nested; the inner change is applied after the outer one, so with scale 0 the union of the sets is off. On exit
    everything is removed, also after an exception. Inside the block the model cannot be copied or pickled, and
    `save_pretrained` and `state_dict` give it as it was.

    The neurons are off in the thread, or the asyncio task, that entered the block; other threads run the model as it
    is. They are also off in what this thread starts by calling the model: `torch.nn.DataParallel`, and backward passes.
    With the gradient checkpointing of transformers, layers are recomputed with the neurons that were off in the
    forward, also after the block. With `torch.utils.checkpoint` called on parts of the model, the backward pass must be
    inside the block.

    Source: arXiv 2402.18815, section 2.

    Args:
        model: a Hugging Face decoder of a supported family; it may be compiled.
        neurons: the set of neurons to switch off; or a list of sets for the rows of the batch, in which None means that
            all neurons are on.
        rows: only with a list: for each row of the batch the index of its set in the list, (batch,) int. None: row r is
            under set r. In `model.generate` the rows are the prompts; all beams and samples of a prompt are under its
            set.
        scale: the factor of the neurons' activations: 0 switches the neurons off, 2 doubles their activations.
        mean: {site: (layers, neurons)}, the values that the neurons are set to, such as those of `mean_activations`.
            None: the neurons are scaled.
        threads: "own": the neurons are off where the block was entered. "all": they are off in all threads, such as
            those that are started inside the block.
        verify: as in `importance`, for the sites of the sets.

    Yields:
        The model.

    Raises:
        UnsupportedModel: the neurons are not where a known family has them; weights are not in memory; or a module of a
            site of the sets computes something else than its weights say.
        ValueError: `neurons` is neither a set nor a list of sets; a set is of a model of another shape; `rows` has an
            index that is not in the list, or not as many entries as the batch has rows; `scale` is not finite; `mean`
            is of another model, lacks a site of the sets, or is given together with a scale; `threads` is none of
            the known values.

    Warns:
        UserWarning: a set has no neurons; or a thread that was started inside the block runs the model, without the
            change.
    """
    refuse_replicas(model)
    decoder = Decoder(model)
    if threads not in THREADS:
        raise ValueError(f"threads must be one of {THREADS}, got {threads!r}")
    if isinstance(neurons, NeuronSet):
        if rows is not None:
            raise ValueError("rows choose among several sets: give a list of them")
        check_sets(decoder, {"the set": neurons})
        require_verified(decoder, sites_of_sets([neurons]), verify)
        with change_neurons(decoder, [neurons], scale, mean, threads):
            yield model
        return
    if isinstance(neurons, Mapping) or not neurons:
        raise ValueError("neurons must be a set of neurons or a list of some; of a dictionary give list(sets.values())")
    check_sets(decoder, {f"set {number}": neuron_set for number, neuron_set in enumerate(neurons)})
    require_verified(decoder, sites_of_sets(neurons), verify)
    ids = check_rows(rows, len(neurons))
    with change_neurons(decoder, neurons, scale, mean, threads) as row_sets, row_sets.in_generate(threads == "all"):
        row_sets.assign(ids)
        yield model


def check_sets(decoder: Decoder, named_sets: Mapping[str, NeuronSet | None]) -> None:
    """Checks that sets fit the model. Messages use the names of the sets.

    Raises:
        ValueError: a set is of a model of another shape.

    Warns:
        UserWarning: a set has no neurons.
    """
    for name, neurons in named_sets.items():
        if neurons is None:
            continue
        neurons.check_fits(decoder.widths(), len(decoder.layers), name)
        if len(neurons) == 0:
            warnings.warn(f"{name} has no neurons: under it the model runs as it is", stacklevel=2)


@contextmanager
def change_neurons(
    decoder: Decoder,
    sets: Sequence[NeuronSet | None],
    scale: float = 0.0,
    mean: Mapping[str, Tensor] | None = None,
    threads: Threads = "own",
) -> Iterator[RowSets]:
    """Inside the block, the neurons of `sets` are scaled, or set to their mean.

    Args:
        decoder: the model.
        sets: the sets that rows of a batch can be under; None: no neurons are changed.
        scale: as in `deactivate`.
        mean: as in `deactivate`.
        threads: as in `deactivate`.

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
    row_sets = RowSets(decoder.model)
    switches_off = scale == 0 and mean is None
    with Hooks(threads == "all", warns_new_threads=True) as hooks:
        remember_blocks(hooks, decoder.layer_modules())
        for number, layer in enumerate(decoder.layers):
            ffn = layer.ffn_parts
            # These FFNs may get the tokens of all rows in one dimension. So the batch size is checked before them.
            # With family.ffn == "", the layer itself takes the place of the FFN.
            if decoder.family.ffn == "" or isinstance(ffn, Experts):
                hooks.before_with_keywords(layer.ffn, row_sets.check_input)
            if isinstance(ffn, Experts):
                found = set_masks.of_module(number, {"ffn": slice(None)}, ffn.width, ffn.module.down_proj)
                if found is not None:
                    routed_change = _routed_change(row_sets, ffn, found[0], scale, found[1])
                    if switches_off:
                        mark_as_switch(routed_change, routed_change)
                    attach_change(hooks, ffn, routed_change)
            for module, on_input, indices in find_changed_modules(layer):
                weight = weight_of(module)
                found = set_masks.of_module(number, indices, weight.shape[on_input], weight)
                if found is None:
                    continue
                masks, values = found
                change = _tensor_change(decoder.tensor_parallel, row_sets, masks, scale, values)
                if on_input:
                    hook = _input_hook(change)
                    if switches_off:
                        mark_as_switch(hook, partial(_changed_copy, change))
                    hooks.before(module, hook)
                else:
                    hooks.after(module, _output_hook(change))
        yield row_sets


def find_changed_modules(layer: Layer) -> Iterator[tuple[Linear, bool, SiteIndices]]:
    """Finds the linear modules of a layer whose inputs or outputs are neurons, except those of experts.

    Yields:
        A linear module; True if its inputs are neurons, False if its outputs are; the indices of each site among them.
    """
    if isinstance(layer.ffn_parts, DenseFFN):
        yield layer.ffn_parts.down, True, {"ffn": slice(None)}
    yield layer.o, True, {"o": slice(None)}
    outputs: dict[Linear, SiteIndices] = {}  # the parts of a fused projection share a module
    for site, projection in (("q", layer.q), ("k", layer.k), ("v", layer.v)):
        outputs.setdefault(projection.module, {})[site] = projection.index()
    for module, indices in outputs.items():
        yield module, False, indices


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
