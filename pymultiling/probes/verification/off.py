"""While `deactivate` has neurons off, modules return what weights with zeroed rows and columns give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from pymultiling.models.decoder import AttentionLayer, Decoder, Layer
from pymultiling.models.experts import Experts, attached_changes
from pymultiling.models.linear import Linear, Projection
from pymultiling.models.routing import Routed
from pymultiling.neurons.sets import NeuronSet
from pymultiling.neurons.widths import are_neurons
from pymultiling.probes.hooks import Hooks, is_acting
from pymultiling.probes.neuron_changes import find_changed_modules
from pymultiling.probes.set_masks import SiteIndices, SiteMembers
from pymultiling.probes.verification import advice
from pymultiling.probes.verification.ffn import expert_norms, same_norms
from pymultiling.probes.verification.fingerprint import is_ours
from pymultiling.probes.verification.linear import linear_norms, plain_output
from pymultiling.probes.verification.report import Check, Comparisons
from pymultiling.probes.verification.rounding import column_norms, is_same

STRIDE = 8  # one neuron of so many is off, and one output of so many is computed again
# The first neuron that is off. Where v neurons are off, the input of o_proj is 0 already: its own neurons are others.
FIRST = {"ffn": 0, "q": 0, "k": 0, "v": 0, "o": STRIDE // 2}


def neurons_off(decoder: Decoder) -> NeuronSet:
    """Returns one neuron of STRIDE of every site and layer that has neurons there."""
    masks, widths = {}, decoder.layer_widths()
    for site, by_layer in widths.items():
        masks[site] = are_neurons(by_layer, max(by_layer))
        masks[site][:, [n for n in range(max(by_layer)) if n % STRIDE != FIRST[site]]] = False
    return NeuronSet(masks, widths)


class OffWatch:
    """Compares what the modules of one layer return while neurons are off, in one forward.

    Args:
        decoder: the model.
        layer: the layer.
        names: the names of modules, for messages.
        comparisons: gets the comparisons.
        valid: (documents, length) bool, False for padding, on the CPU.
    """

    def __init__(
        self, decoder: Decoder, layer: Layer, names: dict[nn.Module, str], comparisons: Comparisons, valid: Tensor
    ):
        self._decoder, self._layer, self._names, self._comparisons = decoder, layer, names, comparisons
        self._rows, self._tokens = valid.flatten().nonzero().flatten(), valid.numel()
        self._before: dict[nn.Module, Tensor] = {}  # inputs of o and down, outputs of q, k and v
        # What a block that is on in all threads changes is not compared.
        self._modules = [entry for entry in find_changed_modules(layer) if not _has_ours(entry[0])]
        self._experts: Experts | None = layer.experts
        if self._experts is not None and attached_changes(self._experts):
            self._experts = None

    def keep(self, hooks: Hooks) -> None:
        """Adds hooks that keep tensors as they are before they are changed. Those that change them come after."""
        for module, on_input, *_ in self._modules:
            if on_input:
                hooks.before(module, self._keep_input)
            else:
                hooks.after(module, self._keep_output)

    def compare(self, hooks: Hooks) -> None:
        """Adds hooks that compare. Those that change tensors come before."""
        for module, on_input, indices, members in self._modules:
            check = (self._check_columns if on_input else self._check_rows)(indices, members)
            hooks.after(module, self._surviving([cast("Check", site) for site in indices], check))
        if self._experts is not None:
            hooks.after(self._experts.module, self._surviving(["ffn"], self._check_experts))

    def _surviving(self, checks: list[Check], hook: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a hook whose errors fail these checks."""

        def guarded(module: nn.Module, *arguments: Any) -> Any:
            with self._comparisons.surviving(checks, self._names[module]):
                return hook(module, *arguments)

        return guarded

    def _keep_input(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._before[module] = args[0]

    def _keep_output(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self._before[module] = output

    def _check_columns(self, indices: SiteIndices, members: SiteMembers) -> Callable[..., None]:
        """Returns a hook after o or down, whose inputs are the neurons."""
        (site,) = indices

        def check(module: Linear, args: tuple[Tensor, ...], output: Tensor) -> None:
            before = self._valid(self._before.pop(module))
            if isinstance(self._layer, AttentionLayer) and self._layer.v is not None and site == "o":
                self._check_values(self._layer, self._layer.v, before)
            off = _off(site, before.shape[-1], slice(None), members[site].start or 0)
            x = before.index_fill(-1, off.to(before.device), 0)
            some = slice(None, None, STRIDE)
            expected, returned = plain_output(module, x, some), self._valid(output)[..., some]
            subject = f"with neurons off, {self._names[module]} does not return what zeroed columns of its weight give"
            norms = linear_norms(module, x, expected, returned, some)
            self._comparisons.compare(cast("Check", site), subject, advice.OUTPUT, *norms)

        return check

    def _check_rows(self, indices: SiteIndices, members: SiteMembers) -> Callable[..., None]:
        """Returns a hook after a projection whose outputs are neurons of q, k or v."""

        def check(module: Linear, args: tuple[Tensor, ...], output: Tensor) -> None:
            before = self._valid(self._before.pop(module))
            off = torch.cat(
                [_off(site, before.shape[-1], index, members[site].start or 0) for site, index in indices.items()]
            )
            expected, returned = before.index_fill(-1, off.to(before.device), 0), self._valid(output)
            subject = f"with neurons off, {self._names[module]} does not return what zeroed rows of its weight give"
            if is_same(expected, returned):  # the usual case
                for site in indices:
                    self._comparisons.agree(cast("Check", site))
                return
            for site, index in indices.items():
                norms = same_norms(expected[..., index], returned[..., index])
                self._comparisons.compare(cast("Check", site), subject, advice.OUTPUT, *norms)

        return check

    def _check_values(self, layer: AttentionLayer, v: Projection, attended: Tensor) -> None:
        """Checks that values that are zero contribute nothing: the input of o is zero at their dimensions."""
        is_zero = torch.zeros(layer.kv_heads, layer.value_size, dtype=torch.bool)
        is_zero.view(-1)[FIRST["v"] :: STRIDE] = True
        columns = is_zero.repeat_interleave(layer.heads // layer.kv_heads, 0).flatten().nonzero().flatten()
        left = column_norms(attended[:, columns.to(attended.device)])
        subject = f"{self._names[layer.attention]} does not sum up what hooks make of {self._names[v.module]}"
        self._comparisons.compare("v", subject, advice.OUTPUT, left, torch.zeros_like(left), torch.ones_like(left))

    def _check_experts(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        experts = self._layer.experts
        if experts is None:
            return
        is_off = torch.zeros(experts.expert_count, experts.size, dtype=torch.bool, device=output.device)
        is_off.view(-1)[FIRST["ffn"] :: STRIDE] = True

        def switch_off(routed: Routed) -> Tensor:
            return routed.hidden.masked_fill(is_off[routed.experts], 0)

        expected = experts.run((switch_off,), *args)
        subject = f"with neurons off, {self._names[module]} does not return what zeroed columns of its weights give"
        norms = expert_norms(expected, output, experts.sum_length)
        self._comparisons.compare("ffn", subject, advice.OUTPUT, *norms)

    def _valid(self, x: Tensor) -> Tensor:
        """Returns (tokens, N) without padding, whose values may be NaN. A model may leave it out itself."""
        rows = x.flatten(0, -2)
        return rows.index_select(0, self._rows.to(x.device)) if len(rows) == self._tokens else rows


def _off(site: str, width: int, index: slice | Tensor, before: int) -> Tensor:
    """Returns the places, among `width` inputs or outputs, of the neurons of a site that are off.

    before: how many neurons of the site are in other modules and come before these.
    """
    return torch.arange(width)[index][(FIRST[site] - before) % STRIDE :: STRIDE]


def _has_ours(module: nn.Module) -> bool:
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return any(is_ours(hook) and is_acting(hook, module) for hook in hooks)
