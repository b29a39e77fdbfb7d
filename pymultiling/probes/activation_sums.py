"""Sums of every neuron's activation over the tokens of a forward."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from pymultiling.mathematics.sums import upcast
from pymultiling.models.decoder import Decoder, evaluation_mode
from pymultiling.models.experts import Experts, Routed, changing
from pymultiling.models.linear import weight_of
from pymultiling.neurons.sites import SITES, check_sites
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.masking import places


class ActivationSumProbe:
    """Adds up x[t, n] over the tokens t of a batch, x where `deactivate` changes it.

    A neuron of an expert has the sum over the tokens that are routed to the expert.
    """

    def __init__(self, model: nn.Module, sites: Iterable[str] = SITES):
        self.decoder, self.sites = Decoder(model), check_sites(sites)
        self.decoder.require_weights()
        self._has_experts = self.decoder.layers[0].experts is not None and "ffn" in self.sites

    def zero_sums(self) -> dict[str, Tensor]:
        """The sums of no tokens: {site: (layers, neurons) float64}, "tokens": () int64 and, of experts, "routed": (layers, neurons)
        int64, the tokens that are routed to each neuron's expert."""
        widths, layers = self.decoder.widths(), len(self.decoder.layers)
        sums = {site: torch.zeros(layers, widths[site], dtype=torch.float64) for site in self.sites}
        sums["tokens"] = torch.zeros((), dtype=torch.int64)
        if self._has_experts:
            sums["routed"] = torch.zeros(layers, widths["ffn"], dtype=torch.int64)
        return sums

    @torch.no_grad()
    def measure(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """The sums of a batch, as in `zero_sums`: input_ids and attention_mask (documents, length), mask 0 for padding."""
        sums = self.zero_sums()
        sums["tokens"] += attention_mask.sum().cpu()
        devices = {parameter.device for parameter in self.decoder.model.parameters()}
        valid = {device: attention_mask.flatten().to(device) for device in devices}

        def add(index: int, parts: dict[str, slice | Tensor], whole: int, x: Tensor) -> None:
            x = upcast(x.flatten(0, -2))
            total = self.decoder.tensor_parallel.gather(valid[x.device].to(x.dtype) @ x, whole).double().cpu()
            for site, part in parts.items():
                if site in sums:
                    sums[site][index] += total[part]

        def add_routed(index: int, experts: Experts, routed: Routed) -> None:
            documents = valid[routed.hidden.device] - 1  # -1 for padding
            sums["ffn"][index] += experts.total(routed, documents, 1)[0].double().cpu()
            sums["routed"][index] += experts.tokens(routed, documents, 1)[0].cpu()

        with ExitStack() as stack, Hooks() as hooks, evaluation_mode(self.decoder.model):
            for index, layer in enumerate(self.decoder.layers):
                if self._has_experts:
                    stack.enter_context(changing(layer.experts, partial(add_routed, index, layer.experts)))
                for module, on_input, parts in places(layer):
                    if not sums.keys() & parts.keys():
                        continue
                    at = index, parts, weight_of(module).shape[on_input]
                    if on_input:
                        hooks.before(module, lambda _, args, at=at: add(*at, args[0]))
                    else:
                        hooks.after(module, lambda _, args, output, at=at: add(*at, output))
            self.decoder.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return sums
