"""Trainable differences that a linear module adds to some rows or columns of its weight, which stays unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pymultiling.models.linear import PlainLinear, is_transposed
from pymultiling.models.walk import each_module

ROWS, COLUMNS = 0, 1  # dimensions of a weight (outputs, inputs)
# Names of the buffer and the parameters that a Delta registers on the module, so that optimizers, Trainer, `model.to`
# and copies of the model find them.
INDEX = "neuron_index"
DELTAS = {"weight": "neuron_delta", "bias": "neuron_delta_bias"}


class Delta:
    """Trains k rows or columns of one linear module, y = x W^T + b.

        rows:     y[..., index] += x D^T + d,      D (k, inputs), d (k,) where there is a bias
        columns:  y += x[..., index] D^T,          D (outputs, k)

    D and d start with zero. Where a module stores its weight as (inputs, outputs), D is stored in that layout too. D
    and d are float32 (float64 for a float64 module), also where the module is in 16 bits: 16 bits lose small steps,
    and so do Adam's moments in 16 bits; k rows or columns take little memory. The product is computed in x's dtype.

    Args:
        module: the linear module.
        index: (k,) int64, the rows or columns.
        dimension: ROWS or COLUMNS.
    """

    def __init__(self, module: PlainLinear, index: Tensor, dimension: int):
        weight, self.module = module.weight, module
        self.axis = 1 - dimension if is_transposed(module) else dimension  # of the weight as it is stored
        # Evidence: the demo model in bfloat16, 119 neurons of tr, AdamW, 48 steps of 8 x 128 tokens, on the CPU,
        # 2026-11-21. The held-out loss was 3.9453 before training. After training at rate 1e-5 | 1e-4 it was
        #     3.9436 | 3.9351 with float32 differences,
        #     3.9439 | 3.9353 with bfloat16 differences,
        #     3.9456 | 3.9400 when the same entries of the bfloat16 weights were trained themselves.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        shape = list(weight.shape)
        shape[self.axis] = len(index)
        module.register_buffer(INDEX, index.to(weight.device), persistent=False)
        module.register_parameter(DELTAS["weight"], nn.Parameter(weight.new_zeros(shape, dtype=dtype)))
        if dimension == ROWS and module.bias is not None:
            module.register_parameter(DELTAS["bias"], nn.Parameter(weight.new_zeros(len(index), dtype=dtype)))
        # The hooks are no closures over the module, so that copies of the model (deepcopy, DataParallel) run with
        # their own parameters. The forward hook is prepended, so that `deactivate` is applied to its result, in
        # whichever order the two are attached.
        self._handles = [
            module.register_forward_hook(_add_rows if dimension == ROWS else _add_columns, prepend=True),
            module.register_state_dict_post_hook(partial(_write_merged, self.axis)),  # type: ignore[no-untyped-call]
            module.register_load_state_dict_pre_hook(partial(_read_merged, self.axis)),  # type: ignore[no-untyped-call]
        ]

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields ("weight", D), and ("bias", d) where there is one."""
        for name, delta, _ in _deltas(self.module, self.axis):
            yield name, delta

    @torch.no_grad()
    def merge(self) -> None:
        """Adds the differences to the weight and the bias, rounded once to their dtype, and removes them."""
        for name, delta, axis in _deltas(self.module, self.axis):
            parameter, index = getattr(self.module, name), getattr(self.module, INDEX)
            parameter.index_copy_(axis, index, _sum(parameter, delta, index, axis))
        self.remove()

    def remove(self) -> None:
        """Removes the differences and the hooks from the module."""
        for handle in self._handles:
            handle.remove()
        for name in (INDEX, *DELTAS.values()):
            if hasattr(self.module, name):
                delattr(self.module, name)


def has_deltas(model: nn.Module) -> bool:
    """Whether any module of the model has a Delta."""
    return any(DELTAS["weight"] in module._parameters for module in each_module(model))


def refuse_deltas(model: nn.Module) -> None:
    """Refuses models with differences, for callers that read weights and would miss them.

    Raises:
        ValueError: the model has differences.
    """
    if has_deltas(model):
        raise ValueError(
            "the model trains some neurons, and its weights are read: first call merge() or remove() of what "
            "train_only returned, or load the model's state_dict() into a new one"
        )


def _deltas(module: nn.Module, weight_axis: int) -> Iterator[tuple[str, nn.Parameter, int]]:
    """Yields the name of a parameter of the module, its difference, and the dimension of the chosen entries."""
    for name, delta_name in DELTAS.items():
        delta = getattr(module, delta_name, None)
        if delta is not None:
            yield name, delta, weight_axis if name == "weight" else 0


def _sum(base: Tensor, delta: Tensor, index: Tensor, axis: int) -> Tensor:
    """Returns the chosen entries of `base` with their differences added, in the dtype of `base`."""
    return (base.index_select(axis, index).to(delta.dtype) + delta).to(base.dtype)


def _add_rows(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    # In place, which saves a copy. It is safe: this is the first hook, so nothing else refers to the output, and no
    # gradient needs it.
    return output.index_add_(-1, getattr(module, INDEX), _product(module, args[0]).to(output.dtype))


def _add_columns(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.add_(_product(module, args[0].index_select(-1, getattr(module, INDEX))))


def _product(module: nn.Module, x: Tensor) -> Tensor:
    """Returns x D^T, plus d where there is one, in x's dtype."""
    delta: Tensor = getattr(module, DELTAS["weight"])
    bias: Tensor | None = getattr(module, DELTAS["bias"], None)
    delta = delta.T if is_transposed(module) else delta
    return F.linear(x, delta.to(x.dtype), None if bias is None else bias.to(x.dtype))


@torch.no_grad()
def _write_merged(weight_axis: int, module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """After a state is made: replaces the weight by the merged one, and leaves out the differences."""
    index = getattr(module, INDEX)
    for name, delta, axis in _deltas(module, weight_axis):
        base = getattr(module, name)
        state[prefix + name] = base.detach().index_copy(axis, index, _sum(base, delta, index, axis))
        del state[prefix + DELTAS[name]]


@torch.no_grad()
def _read_merged(weight_axis: int, module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Before a state is loaded: sets the differences to the loaded entries minus those of the weight, which stay."""
    index = getattr(module, INDEX)
    for name, delta, axis in _deltas(module, weight_axis):
        base, loaded = getattr(module, name), state.get(prefix + name)
        state[prefix + DELTAS[name]] = delta.detach()
        if loaded is None or loaded.shape != base.shape:  # load_state_dict reports this as missing or mismatched
            continue
        loaded, base_entries = loaded.to(base), base.index_select(axis, index)
        state[prefix + DELTAS[name]] = loaded.index_select(axis, index).to(delta.dtype) - base_entries.to(delta.dtype)
        state[prefix + name] = loaded.index_copy(axis, index, base_entries)
