"""Sums of every neuron's activation over the tokens of a forward."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from pymultiling.mathematics.sums import upcast
from pymultiling.models.decoder import Decoder, model_device
from pymultiling.models.experts import Experts, attach_change
from pymultiling.models.linear import inputs_of, outputs_of
from pymultiling.models.modes import evaluation_mode
from pymultiling.models.routing import Routed
from pymultiling.neurons.sites import SITES, Site, check_sites
from pymultiling.probes.batch_documents import require_every_token
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.neuron_changes import ChangedModule, find_changed_modules
from pymultiling.probes.verification.entry import require_verified
from pymultiling.probes.verification.report import Check
from pymultiling.runtime.autocast import without_autocast
from pymultiling.runtime.device_copies import sums_device, to_device


class ActivationSumProbe:
    """Sums x[t, n] over the tokens t of a batch that count, where x is the tensor that `deactivate` changes.

    For a neuron of an expert, the sum is over the tokens that are routed to the expert.

    Args:
        model: a Hugging Face decoder of a supported family.
        sites: which of "ffn", "q", "k", "v", "o".

    Raises:
        UnsupportedModel: the neurons are not where a known family has them, or weights are not in memory.
        ValueError: a site is unknown, or there is none.
    """

    def __init__(self, model: nn.Module, sites: str | Iterable[str] = SITES):
        self.decoder, self.sites = Decoder(model), check_sites(sites)
        self.decoder.require_weights()
        once = cast("list[Check]", [f"{site} once" for site in self.sites])
        require_verified(self.decoder, ["body", *cast("tuple[Site, ...]", self.sites), *once])
        self._sums_experts = "ffn" in self.sites and any(layer.experts is not None for layer in self.decoder.layers)

    def zero_sums(self, device: torch.device | None = None) -> dict[str, Tensor]:
        """Returns the sums of no tokens.

        Args:
            device: where to keep the sums; None: on the CPU.

        Returns:
            {site: (layers, neurons) float64} and "tokens": () int64, the number of tokens. For experts also "routed":
            (layers, neurons) int64, the number of tokens that are routed to each neuron's expert.
        """
        widths, layers = self.decoder.widths(), len(self.decoder.layers)
        sums = {site: torch.zeros(layers, widths[site], dtype=torch.float64, device=device) for site in self.sites}
        sums["tokens"] = torch.zeros((), dtype=torch.int64, device=device)
        if self._sums_experts:
            sums["routed"] = torch.zeros(layers, widths["ffn"], dtype=torch.int64, device=device)
        return sums

    @torch.no_grad()
    def measure(self, input_ids: Tensor, attention_mask: Tensor, counted: Tensor | None = None) -> dict[str, Tensor]:
        """Measures a batch.

        Args:
            input_ids: (documents, length) int64.
            attention_mask: (documents, length), 0 for padding.
            counted: (documents, length) bool, the tokens that count. None: all but padding.

        Returns:
            The sums over the batch, as in `zero_sums`, on the model's device.
        """
        device = sums_device(model_device(self.decoder.model))
        sums = self.zero_sums(device)
        weights = attention_mask if counted is None else counted.long()
        sums["tokens"] += to_device(weights.sum(), device)
        devices = {parameter.device for parameter in self.decoder.model.parameters()}
        counts = {place: to_device(weights.flatten(), place) for place in devices}

        def add(layer: int, place: ChangedModule, full_width: int, x: Tensor) -> None:
            indices, members = place.indices, place.members
            require_every_token(x, attention_mask.numel(), ", ".join(indices), layer)
            x = upcast(x.flatten(0, -2))
            with without_autocast(x.device.type):
                local_total = counts[x.device].to(x.dtype) @ x
            total = self.decoder.tensor_parallel.gather(local_total, full_width).to(device).double()
            for site, index in indices.items():
                if site in sums:
                    values = total[index if isinstance(index, slice) else to_device(index, device)]
                    sums[site][layer, members[site]] += values
            if "ffn" in indices and self._sums_experts:
                sums["routed"][layer, members["ffn"]] += to_device(weights.sum(), device)

        def add_input(
            layer: int, place: ChangedModule, full_width: int, _: nn.Module, args: tuple[Tensor, ...]
        ) -> None:
            add(layer, place, full_width, args[0])

        def add_output(
            layer: int, place: ChangedModule, full_width: int, _: nn.Module, args: tuple[Tensor, ...], output: Tensor
        ) -> None:
            add(layer, place, full_width, output)

        def add_routed(layer: int, experts: Experts, routed: Routed) -> None:
            require_every_token(routed.states, attention_mask.numel(), "ffn", layer)
            documents = counts[routed.hidden.device] - 1  # 0 for tokens that count, -1 for others
            total, routed_tokens = experts.total_and_tokens(routed, documents, 1)
            sums["ffn"][layer, : experts.width] += total[0].to(device).double()
            sums["routed"][layer, : experts.width] += routed_tokens[0].to(device)

        hooks = Hooks()
        for number, layer in enumerate(self.decoder.layers):
            if self._sums_experts and layer.experts is not None:
                attach_change(hooks, layer.experts, partial(add_routed, number, layer.experts))
            for place in find_changed_modules(layer):
                if not sums.keys() & place.indices.keys():
                    continue
                if place.on_input:
                    hooks.before(place.module, partial(add_input, number, place, inputs_of(place.module)))
                else:
                    hooks.after(place.module, partial(add_output, number, place, outputs_of(place.module)))
        with hooks, evaluation_mode(self.decoder.model):
            self.decoder.forward(input_ids, attention_mask)
        return sums
