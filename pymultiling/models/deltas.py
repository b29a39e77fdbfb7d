"""Small trainable differences that a linear module adds to some rows or columns of its weight, which stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pymultiling.models.linear import is_transposed

ROWS, COLUMNS = 0, 1
# The module owns them, so that optimizers, Trainer, `model.to` and copies of the model find them.
INDEX = "neuron_index"
DELTAS = {"weight": "neuron_delta", "bias": "neuron_delta_bias"}


class Delta:
    """What was put on one linear module, y = x W^T + b, to train k of its rows or columns.

        rows:     y[..., index] += x D^T + d,      D (k, inputs), d (k,) where there is a bias
        columns:  y += x[..., index] D^T,          D (outputs, k)

    D and d start with zero; where a module stores its weight as (inputs, outputs), so does D. They are float32 (float64
    on a float64 module) also where the module is in 16 bits, which lose small steps, as do Adam's moments in them; k rows
    or columns cost little. The product is in x's dtype.
    """

    def __init__(self, module: nn.Module, index: Tensor, dimension: int):
        weight, self.module = module.weight, module
        self.along = 1 - dimension if is_transposed(module) else dimension  # of the weight as it is stored
        # Evidence: the embedded model in bfloat16, 119 neurons of tr, AdamW, 48 steps of 8 x 128 tokens; held-out loss,
        # 3.9453 at first; CPU, 2026-11-21. At rate 1e-5 | 1e-4: float32 differences 3.9436 | 3.9351, bfloat16
        # differences 3.9439 | 3.9353, the same entries of the bfloat16 weights themselves 3.9456 | 3.9400.
        wide = torch.promote_types(weight.dtype, torch.float32)
        shape = list(weight.shape)
        shape[self.along] = len(index)
        module.register_buffer(INDEX, index.to(weight.device), persistent=False)
        module.register_parameter(DELTAS["weight"], nn.Parameter(weight.new_zeros(shape, dtype=wide)))
        if dimension == ROWS and module.bias is not None:
            module.register_parameter(DELTAS["bias"], nn.Parameter(weight.new_zeros(len(index), dtype=wide)))
        # No closures over the module: copies of the model (deepcopy, DataParallel) run with their own parameters. First
        # of the hooks, so that `deactivate`, whichever came first, has the last word on the output.
        self._handles = [
            module.register_forward_hook(_add_rows if dimension == ROWS else _add_columns, prepend=True),
            module.register_state_dict_post_hook(partial(_write_merged, self.along)),
            module.register_load_state_dict_pre_hook(partial(_read_merged, self.along)),
        ]

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """("weight", D), and ("bias", d) where there is one."""
        for name, delta, _ in _deltas(self.module, self.along):
            yield name, delta

    @torch.no_grad()
    def merge(self) -> None:
        """Adds the differences to the weight and the bias, rounded once to their dtype, and goes."""
        for name, delta, along in _deltas(self.module, self.along):
            into, index = getattr(self.module, name), getattr(self.module, INDEX)
            into.index_copy_(along, index, _sum(into, delta, index, along))
        self.remove()

    def remove(self) -> None:
        """Takes everything off the module again."""
        for handle in self._handles:
            handle.remove()
        for name in (INDEX, *DELTAS.values()):
            if hasattr(self.module, name):
                delattr(self.module, name)


def has_deltas(model: nn.Module) -> bool:
    """Whether rows or columns of some module train."""
    return any(hasattr(module, DELTAS["weight"]) for module in model.modules())


def refuse_deltas(model: nn.Module) -> None:
    """For what reads weights itself, and would not see the differences."""
    if has_deltas(model):
        raise ValueError(
            "the model trains some neurons, and its weights are read: first call merge() or remove() of what train_only "
            "returned, or load the model's state_dict() into a new one"
        )


def _deltas(module: nn.Module, along: int) -> Iterator[tuple[str, nn.Parameter, int]]:
    """The name of a parameter of the module, its difference, and along which dimension entries were chosen."""
    for name, of_delta in DELTAS.items():
        delta = getattr(module, of_delta, None)
        if delta is not None:
            yield name, delta, along if name == "weight" else 0


def _sum(base: Tensor, delta: Tensor, index: Tensor, along: int) -> Tensor:
    """The chosen entries with their differences, in the dtype of base."""
    return (base.index_select(along, index).to(delta.dtype) + delta).to(base.dtype)


def _add_rows(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    # In place, which costs no copy: this is the first hook, nobody has kept the output, and no gradient needs it.
    return output.index_add_(-1, getattr(module, INDEX), _product(module, args[0]).to(output.dtype))


def _add_columns(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    return output.add_(_product(module, args[0].index_select(-1, getattr(module, INDEX))))


def _product(module: nn.Module, x: Tensor) -> Tensor:
    delta, bias = (getattr(module, name, None) for name in DELTAS.values())
    delta = delta.T if is_transposed(module) else delta
    return F.linear(x, delta.to(x.dtype), None if bias is None else bias.to(x.dtype))


@torch.no_grad()
def _write_merged(of_weight: int, module: nn.Module, state: dict, prefix: str, _) -> None:
    """A model that trains has the state of the ordinary model that it would be after merging."""
    index = getattr(module, INDEX)
    for name, delta, along in _deltas(module, of_weight):
        base = getattr(module, name)
        state[prefix + name] = base.detach().index_copy(along, index, _sum(base, delta, index, along))
        del state[prefix + DELTAS[name]]


@torch.no_grad()
def _read_merged(of_weight: int, module: nn.Module, state: dict, prefix: str, *_) -> None:
    """Of a state that is loaded, the chosen entries go into the differences: the weight keeps its own."""
    index = getattr(module, INDEX)
    for name, delta, along in _deltas(module, of_weight):
        base, loaded = getattr(module, name), state.get(prefix + name)
        state[prefix + DELTAS[name]] = delta.detach()
        if loaded is None or loaded.shape != base.shape:  # which load_state_dict reports
            continue
        loaded, own = loaded.to(base), base.index_select(along, index)
        state[prefix + DELTAS[name]] = loaded.index_select(along, index).to(delta.dtype) - own.to(delta.dtype)
        state[prefix + name] = loaded.index_copy(along, index, own)
