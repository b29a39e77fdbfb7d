"""The changes of a model's weights that have the effect of `deactivate`.

y = W x + b is a linear module. With a scale s, a set S of its inputs or outputs, and a mean m:

    inputs (ffn, o):        W[:, S] becomes s W[:, S];  with a mean: 0, and b becomes b + W[:, S] m[S]
    outputs (q, k, v):      W[S, :] becomes s W[S, :] and b[S] becomes s b[S];  with a mean: 0 and m[S]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pymultiling.errors import UnsupportedModel
from pymultiling.mathematics.sums import upcast
from pymultiling.models.decoder import Decoder
from pymultiling.models.experts import Experts
from pymultiling.models.linear import PlainLinear, inputs_of, is_transposed, outputs_of
from pymultiling.models.own_weights import require_plain
from pymultiling.neurons.sets import NeuronSet
from pymultiling.probes.neuron_changes import find_changed_modules


@dataclass(frozen=True, eq=False)
class Change:
    """x[index] becomes factor x[index] + addend, where the index is along one dimension of a tensor.

    Attributes:
        axis: the dimension.
        index: (k,) int64.
        factor: with 0, x[index] is dropped even where it is NaN or infinite.
        addend: (k,), for tensors of one dimension; None: nothing is added.
        expert: of tensors that stack experts, the one that is changed; None: the tensor stacks none.
    """

    axis: int
    index: Tensor
    factor: float
    addend: Tensor | None = None
    expert: int | None = None

    def apply(self, tensor: Tensor) -> None:
        """Changes a tensor in place; it is computed in float32 or wider, and rounded once."""
        part = tensor if self.expert is None or tensor.ndim == 2 else tensor[self.expert]
        entries = upcast(part.index_select(self.axis, self.index))
        entries = entries * self.factor if self.factor else torch.zeros_like(entries)
        if self.addend is not None:
            entries = entries + self.addend
        part.index_copy_(self.axis, self.index, entries.to(tensor.dtype))


class ParameterNames:
    """Names the parameters of a model as its checkpoint does."""

    def __init__(self, model: nn.Module):
        self.modules = {module: name for name, module in model.named_modules()}
        self._names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._names.setdefault(id(parameter), []).append(name)

    def name(self, module: nn.Module, attribute: str) -> str:
        """Returns the name of a module's parameter.

        Raises:
            UnsupportedModel: it is not a parameter, or belongs to several modules.
        """
        names, where = self._names.get(id(getattr(module, attribute)), []), f"{self.modules[module]}.{attribute}"
        if not names:
            raise UnsupportedModel(
                f"{where} is computed from other tensors, which a checkpoint holds in its place: make it a parameter "
                "first, with remove_parametrizations, remove_weight_norm or prune.remove of torch.nn.utils"
            )
        if len(names) > 1:
            raise UnsupportedModel(
                f"{names[0]} is also {names[1]}, and a checkpoint holds both as one tensor, so that both would change: "
                "give each module its own first (copy.deepcopy of the module)"
            )
        return names[0]


def changes_of_set(
    decoder: Decoder,
    names: ParameterNames,
    neurons: NeuronSet,
    scale: float,
    mean: Mapping[str, Tensor] | None,
    weight: Callable[[PlainLinear], Tensor],
) -> dict[str, list[Change]]:
    """Returns the changes of each parameter.

    Args:
        decoder: the model; its weights may be on the "meta" device.
        names: the names of its parameters.
        neurons: the set.
        scale: as in `deactivate`.
        mean: as in `deactivate`.
        weight: returns a module's weight as it is stored, with values.

    Returns:
        {name of a parameter in the model: its changes}.

    Raises:
        UnsupportedModel: a weight is not a parameter of one module alone, or is quantised or adapted; or no bias can
            hold the mean.
    """
    changes: dict[str, list[Change]] = {}
    factor = scale if mean is None else 0.0

    def add(module: nn.Module, attribute: str, change: Change) -> None:
        changes.setdefault(names.name(module, attribute), []).append(change)

    for number, layer in enumerate(decoder.layers):
        experts = layer.ffn_parts
        routed = None
        if isinstance(experts, Experts) and "ffn" in neurons.sites:
            routed = neurons.sites["ffn"][number, : experts.width]
        if isinstance(experts, Experts) and routed is not None and routed.any():
            if mean is not None:
                raise UnsupportedModel(
                    "the neurons of experts have their mean only in the tokens that are routed to the expert, which no "
                    'bias holds: leave site "ffn" out of the set, or give a scale'
                )
            for module, attribute, change in _expert_changes(experts, routed, factor):
                add(module, attribute, change)
        for linear, on_input, indices, own in find_changed_modules(layer):
            for site, places in indices.items():
                if site not in neurons.sites or not neurons.sites[site][number, own[site]].any():
                    continue
                members = neurons.sites[site][number, own[site]]
                module = require_plain(linear, names.modules[linear])
                size = inputs_of(module) if on_input else outputs_of(module)
                index = torch.arange(size)[places][members]
                add(module, "weight", Change(int(on_input != is_transposed(module)), index, factor))
                if mean is not None and module.bias is None:
                    raise UnsupportedModel(
                        f"{names.modules[module]} has no bias, which would hold the mean of its {site} neurons: leave "
                        f'site "{site}" out of the set, or give a scale'
                    )
                if module.bias is None:
                    continue
                values = None if mean is None else mean[site][number, own[site]][members].cpu().double()
                if not on_input:
                    add(module, "bias", Change(0, index, factor, values))
                elif values is not None:
                    stored = weight(module)
                    columns = (stored.T if is_transposed(module) else stored)[:, index.to(stored.device)]
                    all_outputs = torch.arange(len(columns))
                    add(module, "bias", Change(0, all_outputs, 1.0, columns.cpu().double() @ values))
    return changes


def _expert_changes(experts: Experts, routed: Tensor, factor: float) -> Iterator[tuple[nn.Module, str, Change]]:
    """Yields the changes of experts, with the module and the name of the parameter.

    Args:
        experts: the experts.
        routed: (E I,) bool, their neurons in the set.
        factor: the factor of these.
    """
    if experts.layout.parts is not None:  # its down projection has a row for each neuron
        path, _, name = experts.layout.parts[2].rpartition(".")
        yield experts.module.get_submodule(path), name, Change(0, routed.nonzero().flatten(), factor)
        return
    axis = 0 if experts.layout.transposed else 1
    for expert, mask in enumerate(routed.view(experts.expert_count, -1)):
        if mask.any():
            yield experts.module, "down_proj", Change(axis, mask.nonzero().flatten(), factor, expert=expert)
