"""Measures the importance of every neuron in one forward. Each hook reduces what it captures at once.

No tensor of the size of the activations is kept after its layer has run. The model is not changed: hooks and attention
listeners are registered only for the forward that is measured.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Self, cast
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pymultiling.errors import UnsupportedModel
from pymultiling.mathematics.sums import document_sum, upcast
from pymultiling.models.attention import AttentionListener, listen_to_attention
from pymultiling.models.decoder import (
    AttentionLayer,
    Decoder,
    DenseFFN,
    Layer,
    SharedExpert,
    check_token_ids,
    model_device,
)
from pymultiling.models.experts import Experts, attach_change
from pymultiling.models.length_scaling import group_rows, length_group
from pymultiling.models.linear import Linear, Projection, device_of, inputs_of
from pymultiling.models.modes import evaluation_mode
from pymultiling.models.norms import epsilon
from pymultiling.models.routing import Routed
from pymultiling.models.tensor_parallel import local_weight
from pymultiling.neurons.sites import SITES, check_sites
from pymultiling.ops import GatedFFN, NormedEnergy, column_energy, normed_energy, value_energy
from pymultiling.ops.arguments import MODES, Mode
from pymultiling.probes.batch_documents import BatchDocuments, require_every_token
from pymultiling.probes.fused_ffn import ACTIVATIONS, fuse_ffn
from pymultiling.probes.graphed_batches import GraphedBatches
from pymultiling.probes.hooks import Hooks, acting_pre_hooks
from pymultiling.probes.importance_values import FiniteCheck
from pymultiling.probes.normed_values import value_importance
from pymultiling.probes.qk import ImportanceScore, Rope, importance_from_scores
from pymultiling.probes.scores import ScoreInputs, watch_scores
from pymultiling.probes.switched_off import computed_part, switch_off, switch_off_routed
from pymultiling.probes.verification.entry import require_verified
from pymultiling.probes.verification.report import Check
from pymultiling.probes.weight_products import WeightProducts
from pymultiling.runtime.device_copies import to_device

_logger = logging.getLogger(__name__)
_announced: WeakSet[nn.Module] = WeakSet()  # base models whose sites without neurons were named

SCORES = ("importance", "released")
ROPES = ("pre", "post")


class ImportanceProbe:
    """Measures batches of documents inside a `with` block.

    Weights must not change inside the block, because what depends on them alone is computed once.

    A factor by which a model multiplies a sublayer's output before it adds it to the residual (Granite's) is no part of
    the sublayer.

    Args:
        model: a Hugging Face decoder of a supported family.
        sites: which of "ffn", "q", "k", "v", "o".
        rope: as in `importance`.
        score: as in `importance`.
        fused: whether `gated_ffn` computes the product of the FFNs, which gives their statistics in the same pass. The
            model's output then agrees to rounding; otherwise it is the same bit for bit. None: gated_ffn is used only
            for layers on a GPU whose activation it knows, where it saves launches and memory traffic; on the CPU no
            saving was measured. Mixtures of experts run in the same way in all cases: their output is the same bit for
            bit if the model uses transformers' "eager" experts, and agrees to rounding otherwise.
        qk: the mode of qk_importance, "exact" or "fast".
        graphs: whether a batch with the shape of an earlier one is measured by replaying a CUDA graph, which takes the
            host less time. The values are the same bit for bit. Inside the block nothing about the model may change
            then, neither hooks nor settings, because a replay does not run the model's Python code.
        verify: as in `importance`.

    Raises:
        UnsupportedModel: the neurons are not where a known family has them.
        ValueError: an argument is none of the known ones.

    Warns:
        UserWarning: batches are measured without CUDA graphs, and why.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: str | Iterable[str] = SITES,
        rope: Rope = "pre",
        score: ImportanceScore = "importance",
        fused: bool | None = None,
        qk: Mode = "exact",
        graphs: bool = False,
        verify: bool = True,
    ):
        if rope not in ROPES or score not in SCORES or qk not in MODES:
            raise ValueError(
                f"rope must be one of {ROPES}, score one of {SCORES} and qk one of {MODES}, "
                f"got {rope!r}, {score!r} and {qk!r}"
            )
        self.decoder = Decoder(model)
        self.sites = check_sites(sites)
        self.rope: Rope = rope
        self.score: ImportanceScore = score
        self.fused = fused
        self.qk: Mode = qk
        self._weight_products = WeightProducts()
        self._uses_graphs = graphs
        self._verifies = verify
        self._graphs: GraphedBatches | None = None
        self._refuse_absent()

    @property
    def rule(self) -> str:
        """How importance is defined. Only values with the same rule can be added."""
        is_estimated = self.qk != "exact" and {"q", "k"} & set(self.sites)
        return f"{self.score}, rope {self.rope}" + (", q and k estimated" if is_estimated else "")

    def __enter__(self) -> Self:
        self.decoder.require_weights()
        require_verified(self.decoder, self._needed_checks(), self._verifies)
        self._graphs = GraphedBatches(self.decoder) if self._uses_graphs else None
        return self

    def __exit__(self, *_: object) -> None:
        self._graphs = None  # graphs read what was computed from the weights
        self._weight_products.clear()

    def _refuse_absent(self) -> None:
        """Says once which sites have no neurons in this model. Raises UnsupportedModel if there are no others."""
        absent = [site for site in self.sites if not self.decoder.layers_of(site)]
        for site in absent:
            reasons = dict.fromkeys(layer.absent[site] for layer in self.decoder.layers)
            sentence = f"no layer of this model has neurons of {site}: each is a layer {'; or '.join(reasons)}"
            if len(absent) == len(self.sites):
                raise UnsupportedModel(f"{sentence}; measure other sites")
            if self.decoder.base_model not in _announced:
                _logger.warning("%s; results are zero there", sentence)
        if absent:
            _announced.add(self.decoder.base_model)

    def _needed_checks(self) -> Iterator[Check]:
        scores: tuple[Check, ...] = ("q", "k", "q once", "k once", "scores")
        needs: dict[str, tuple[Check, ...]] = {"q": scores, "k": scores, "v": ("v", "o", "v once", "o once", "values")}
        if any(layer.v_norm is not None for layer in self.decoder.attention_layers.values()):
            needs["v"] += ("scores",)
        yield "body"
        for site in (site for site in self.sites if self.decoder.layers_of(site)):
            yield from needs.get(site, cast("tuple[Check, ...]", (site, f"{site} once")))
        if "ffn" in self.sites and any(self._is_fused(layer) for layer in self.decoder.layers):
            yield "product"

    def _is_fused(self, layer: Layer) -> bool:
        """Whether gated_ffn computes the product of a layer's FFN."""
        if layer.down is None or not self.decoder.family.ffn_alone or (layer.dense and layer.dense.gate_sparsity > 0):
            return False
        fused = device_of(layer.down).type == "cuda" if self.fused is None else self.fused
        is_wanted = self.score == "released" or (fused and layer.ffn_norm is None)
        return is_wanted and (bool(self.fused) or self.decoder.activation in ACTIVATIONS)

    def measure(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        """Measures a batch, and waits for it.

        Args:
            input_ids: as in `launch`.
            attention_mask: as in `launch`.

        Returns:
            {site: (documents, layers, neurons)}.

        Raises:
            NonFiniteActivations: values are NaN or infinite; names site, layer and document.
            UnsupportedModel: the model does not run its modules as its family says.
        """
        importance, require_finite = self.launch(input_ids, attention_mask)
        require_finite()
        return importance

    @torch.no_grad()
    def launch(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, counted: Tensor | None = None
    ) -> tuple[dict[str, Tensor], FiniteCheck]:
        """Launches the measurement of a batch, without waiting for the device.

        Args:
            input_ids: (documents, length) int64, on any device.
            attention_mask: (documents, length), 0 for padding on either side; None: there is no padding. A mask on a
                GPU is read first, which waits for the GPU.
            counted: (documents, length) bool, on the CPU, True for the tokens over which importance is summed, none of
                which is padding. The others are context only: for q and k, the queries of the others do not count.
                None: all tokens count.

        Returns:
            {site: (documents, layers, neurons)}, and a check that the values are finite, which waits for them.

        Raises:
            UnsupportedModel: the model does not run its modules as its family says.
        """
        check_token_ids(self.decoder.model, input_ids)
        mask = torch.ones(input_ids.shape, dtype=torch.int64) if attention_mask is None else attention_mask.cpu()
        counted = mask.bool() if counted is None else counted
        groups = group_rows(mask.sum(1).tolist(), length_group(self.decoder.model))
        if len(groups) < 2:
            importance = self._launch_rows(input_ids, mask, counted)
        else:
            parts = [self._launch_rows(*_select_rows(input_ids, mask, counted, rows)) for rows in groups]
            order = torch.tensor([row for rows in groups for row in rows]).argsort()
            importance = _join_rows(parts, order)
        return importance, FiniteCheck(importance)

    def _launch_rows(self, input_ids: Tensor, mask: Tensor, counted: Tensor) -> dict[str, Tensor]:
        """Measures rows that may share a forward.

        Args:
            input_ids: as in `launch`.
            mask: as in `_measure`.
            counted: (documents, length) bool, on the CPU.
        """
        device = model_device(self.decoder.model)
        tensors = to_device(input_ids, device), to_device(mask.bool(), device), to_device(counted, device)
        facts = bool(counted.all()), bool((counted == mask.bool()).all())  # read here, where nothing waits for a GPU
        measure = partial(self._measure, *facts)
        if self._graphs is None:
            (importance,) = measure(mask, *tensors)
        else:
            (importance,) = self._graphs.run(measure, facts, mask, *tensors)
        return importance

    def _measure(
        self, is_full: bool, counts_all: bool, mask: Tensor, input_ids: Tensor, valid: Tensor, counted: Tensor
    ) -> tuple[dict[str, Tensor]]:
        """Returns the importance, {site: (documents, layers, neurons)}, as the only result.

        Args:
            is_full: whether `counted` is True everywhere.
            counts_all: whether all tokens but padding count.
            mask: (documents, length), 0 for padding, on the CPU.
            input_ids: (documents, length) int64, on the device.
            valid: mask as bool, on the device.
            counted: (documents, length) bool, on the device.
        """
        self._count = input_ids.shape[0]
        self._valid, self._counted_queries = valid, None if counts_all else counted
        self._documents = BatchDocuments.of_rows(counted, is_full=is_full)
        self._values: dict[str, dict[int, Tensor]] = {site: _SeenOnce(site) for site in self.sites}
        self._shared_values: dict[int, Tensor] = _SeenOnce("ffn")  # of shared experts
        with evaluation_mode(self.decoder.model), self._watch():
            self.decoder.forward(input_ids, mask)
        del self._valid, self._counted_queries, self._documents  # a recording's memory must not stay in use
        values_by_site, self._values = self._values, {}
        if "ffn" in values_by_site:
            values_by_site["ffn"] = self._join_shared(values_by_site["ffn"])
        for site, values in values_by_site.items():
            layers = self.decoder.layers_of(site)
            if len(values) < len(layers):
                raise UnsupportedModel(
                    f"site {site} was seen in {len(values)} of {len(layers)} layers: the model does not "
                    "run its modules as its family says (pymultiling.Family lists what can differ; without "
                    "transformers' attention interface, interface=False)"
                )
        return (self._stack_layers(values_by_site, valid.device),)

    def _join_shared(self, routed: dict[int, Tensor]) -> dict[int, Tensor]:
        """Returns the importance of all FFN neurons by layer: those of experts, then those of the shared expert.

        Layers whose shared expert was not seen are left out.
        """
        shared, self._shared_values = self._shared_values, {}
        joined = {}
        for index, values in routed.items():
            if self.decoder.layers[index].shared is None:
                joined[index] = values
            elif index in shared:
                joined[index] = torch.cat([values, shared[index]], 1)
        return joined

    def _stack_layers(self, by_site: dict[str, dict[int, Tensor]], device: torch.device) -> dict[str, Tensor]:
        """Returns {site: (documents, layers, neurons)} with the neurons of all processes of a tensor-parallel model.

        Layers get zeros for neurons that they do not have.
        """
        stacked = {}
        any_values = next(values for by_layer in by_site.values() for values in by_layer.values())
        lacking = any_values.new_zeros(self._count, 0, device=device)
        for site, by_layer in by_site.items():
            widest = self.decoder.widths()[site]
            width = max((values.shape[1] for values in by_layer.values()), default=widest)
            rows = [by_layer.get(index, lacking).to(device) for index in range(len(self.decoder.layers))]
            padded = [row if row.shape[1] == width else pad(row, (0, width - row.shape[1])) for row in rows]
            local = torch.stack(padded, 1)
            stacked[site] = self.decoder.tensor_parallel.gather(local, widest)
        return stacked

    @contextmanager
    def _watch(self) -> Iterator[None]:
        """Inside the block, forwards fill `_values`."""
        hooks = Hooks()
        listeners: dict[nn.Module, AttentionListener] = {}
        for index, layer in enumerate(self.decoder.layers):
            if "ffn" in self.sites:
                self._watch_ffn(hooks, index, layer)
            if not isinstance(layer, AttentionLayer):
                continue
            sites: list[str] = [site for site in ("v", "o") if site in self.sites and layer.width(site)]
            has_normed_values = self._measures_normed_values(layer)
            if has_normed_values:
                sites.remove("v")
            if sites:
                self._watch_output(hooks, index, layer, sites)
            if has_normed_values or {"q", "k"} & set(self.sites):
                listener = self._watch_scores(hooks, index, layer)
                if listener is not None:
                    listeners[layer.core] = listener
        if listeners:
            listen_to_attention(hooks, self.decoder.config, listeners)
        with hooks:  # which attaches all of them at once
            yield

    def _watch_ffn(self, hooks: Hooks, index: int, layer: Layer) -> None:
        if isinstance(layer.ffn_parts, Experts):
            experts = layer.ffn_parts
            if layer.ffn_norm is not None and self.score == "importance":
                self._watch_normed_experts(hooks, index, experts, layer.shared, layer.ffn_norm)
                return
            attach_change(hooks, experts, partial(self._keep_routed, index, experts))
            if layer.shared is not None:
                self._watch_shared(hooks, index, layer.shared)
        else:
            self._watch_dense_ffn(hooks, index, layer, layer.ffn_parts)

    def _watch_dense_ffn(self, hooks: Hooks, index: int, layer: Layer, ffn: DenseFFN) -> None:
        """Measures FFN neurons by gated_ffn, or at the input of the down projection.

        With score "released" and without gated_ffn, they are measured at the output of the up projection.
        """
        is_released = self.score == "released"
        # A pre-hook of the down projection, such as that of `deactivate`, changes the product after gated_ffn, whose
        # statistics would miss the change.
        if self._is_fused(layer) and not acting_pre_hooks(ffn.down):

            def keep_fused(result: GatedFFN) -> None:
                if is_released:
                    self._values["ffn"][index] = result.magnitude
                else:
                    norms = self._weight_products.column_norms(ffn.down, result.squares.shape[1])
                    self._values["ffn"][index] = result.squares * norms

            documents = partial(self._documents.of, site="ffn", layer=index)
            fuse_ffn(hooks, self.decoder.activation, layer, ffn, documents, keep_fused)
        elif is_released:
            self._watch_magnitude(hooks, index, ffn.up or ffn.gate, ffn.down, self._values["ffn"])
        elif layer.ffn_norm is not None:
            self._watch_normed(hooks, index, layer, ffn.down, layer.ffn_norm)
        else:

            def keep_energy(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                self._keep_energy("ffn", index, ffn.down, args[0])

            hooks.before(ffn.down, keep_energy)

    def _keep_routed(self, index: int, experts: Experts, routed: Routed) -> None:
        """Stores the importance of the neurons of experts, from the tokens that are routed to each expert."""
        documents = self._documents.of(routed.states, "ffn", index).ids
        if self.score == "released":
            self._values["ffn"][index] = experts.magnitude(switch_off_routed(experts, routed), documents, self._count)
        else:
            energy = experts.energy(routed, documents, self._count)
            self._values["ffn"][index] = energy * self._weight_products.expert_norms(experts)

    def _watch_normed_experts(
        self, hooks: Hooks, index: int, experts: Experts, shared: SharedExpert | None, norm: nn.Module
    ) -> None:
        """Measures experts, and a shared one, whose sum passes a norm: each expert alone by normed_energy.

        An expert's neuron changes the sum in the tokens that are routed to it, by the router's weight times its column.
        """
        routed_of: list[Routed] = []
        inputs: list[Tensor] = []  # of the down projection of the shared expert
        gates: list[Tensor] = []

        def keep_normed(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            output, multiplier, routed = args[0].flatten(0, -2), self.decoder.multiplier(norm), routed_of.pop()
            documents = self._documents.of(output, "ffn", index)
            x = experts.weighted(routed)
            ids, values = documents.ids[routed.tokens], []
            grams = self._weight_products.expert_grams(experts, multiplier)
            for rows, weight, products in zip(experts.rows_of_experts(routed), experts.down_weights(), grams):
                values.append(
                    normed_energy(
                        x[rows],
                        output[routed.tokens[rows]],
                        weight,
                        multiplier,
                        *products,
                        epsilon(norm),
                        ids[rows],
                        self._count,
                    ).energy
                )
            self._values["ffn"][index] = torch.cat(values, 1)
            if shared is None:
                return
            own, down = upcast(inputs.pop().flatten(0, -2)), shared.parts.down
            if gates:
                own = own * upcast(gates.pop().flatten(0, -2)).sigmoid()
            width = own.shape[1]
            products = self._weight_products.grams(down, width, multiplier, width, 1)
            weight = local_weight(down, width)
            self._shared_values[index] = normed_energy(
                own, output, weight, multiplier, *products, epsilon(norm), documents
            ).energy

        attach_change(hooks, experts, routed_of.append)
        if shared is not None:
            hooks.before(shared.parts.down, lambda _, args: inputs.append(args[0]))
            if shared.gate is not None:
                hooks.after(shared.gate, lambda _, args, output: gates.append(output))
        hooks.before(norm, keep_normed)

    def _watch_shared(self, hooks: Hooks, index: int, shared: SharedExpert) -> None:
        """Measures the neurons of a shared expert: sum_t (sigmoid(gate[t]) hidden[t, n])^2 ||W_down[:, n]||^2."""
        parts, seen = shared.parts, dict[str, Tensor]()
        if self.score == "released":
            self._watch_magnitude(hooks, index, parts.up or parts.gate, parts.down, self._shared_values)
            return

        def keep_hidden(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen["hidden"] = args[0]
            measure()

        def keep_gate(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen["gate"] = output
            measure()

        def measure() -> None:
            """Measures the layer once the model has computed both, in whichever order."""
            if "hidden" not in seen or (shared.gate is not None and "gate" not in seen):
                return
            x = upcast(seen.pop("hidden").flatten(0, -2))
            if shared.gate is not None:
                x = x * upcast(seen.pop("gate").flatten(0, -2)).sigmoid()
            energy = column_energy(x, self._documents.of(x, "ffn", index))
            self._shared_values[index] = energy * self._weight_products.column_norms(parts.down, x.shape[1])

        hooks.before(parts.down, keep_hidden)
        if shared.gate is not None:
            hooks.after(shared.gate, keep_gate)

    def _watch_magnitude(
        self, hooks: Hooks, index: int, projection: Projection, down: Linear, values: dict[int, Tensor]
    ) -> None:
        """Measures FFN neurons by sum_t |x[t, n]|, where x is the projection's output, 0 for neurons that are off."""

        def keep_magnitude(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            x = upcast(switch_off(down, projection.select(output)).flatten(0, -2)).abs()
            values[index] = document_sum(x, self._documents.of(x, "ffn", index).ids, self._count)

        hooks.after(projection.module, keep_magnitude)

    def _watch_output(self, hooks: Hooks, index: int, layer: AttentionLayer, sites: list[str]) -> None:
        """Measures V and O neurons, or those of one of these sites, at the input of o_proj."""
        if layer.attention_norm is not None and self.score == "importance":
            self._watch_normed(hooks, index, layer, layer.o, layer.attention_norm)
            return

        def keep_output(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].flatten(0, -2)
            documents = self._documents.of(x, sites[0], index)
            kv_heads = layer.kv_heads * x.shape[1] // layer.width("o")
            if self.score == "released":
                magnitude = document_sum(upcast(x).abs(), documents.ids, self._count)
                if "o" in sites:
                    self._values["o"][index] = magnitude
                if "v" in sites:
                    by_head = magnitude.view(self._count, kv_heads, -1, layer.value_size)
                    self._values["v"][index] = by_head.sum(2).flatten(1)
                return
            if "o" in sites:
                self._keep_energy("o", index, layer.o, args[0])
            if "v" in sites:
                gram = self._weight_products.value_gram(layer.o, x.shape[1], kv_heads, layer.value_size)
                from_values = computed_part(layer.o, args[0]).flatten(0, -2)
                self._values["v"][index] = value_energy(from_values, gram, documents)

        hooks.before(layer.o, keep_output)

    def _watch_normed(self, hooks: Hooks, index: int, layer: Layer, linear: Linear, norm: nn.Module) -> None:
        """Measures the sites whose projection's output passes a norm, from the projection's input and its output.

        linear: the down projection, for site ffn; or o, for sites v and o, which share the products with its weight
            unless `deactivate` sets inputs of o to values. v is measured even if only o is asked for, so that the
            values do not depend on the sites asked for; but not in layers without v, and where values pass a norm.
        """
        attention = layer if isinstance(layer, AttentionLayer) and linear is layer.o else None
        single = "ffn" if attention is None else "o"
        if attention is not None and (attention.v is None or attention.v_norm is not None):
            attention = None
        inputs: list[tuple[Tensor, Tensor]] = []  # all of the input, and, in o, what of it comes from the values

        def keep_input(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            from_values = args[0] if attention is None else computed_part(linear, args[0])
            inputs.append((args[0], from_values))

        def keep_normed(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            (x, from_values), multiplier = inputs.pop(), self.decoder.multiplier(norm)
            here, everywhere = x.shape[-1], inputs_of(linear)  # the inputs of this process, and of all
            weight, output = local_weight(linear, here), args[0].flatten(0, -2)

            def measure(x: Tensor, all_heads: int, size: int, columns: bool = False) -> NormedEnergy:
                x, heads = x.flatten(0, -2), all_heads * here // everywhere
                products = self._weight_products.grams(linear, here, multiplier, heads, size)
                documents = self._documents.of(x, single, index)
                return normed_energy(
                    x, output, weight, multiplier, *products, epsilon(norm), documents, columns=columns
                )

            measured: dict[str, Tensor] = {}
            if attention is None:
                measured[single] = measure(x, everywhere, 1).energy
            elif from_values is x:
                both = measure(x, attention.kv_heads, attention.value_size, columns="o" in self.sites)
                measured["v"], measured["o"] = both
            else:
                measured["v"] = measure(from_values, attention.kv_heads, attention.value_size).energy
                measured["o"] = measure(x, everywhere, 1).energy
            for site, values in measured.items():
                if site in self.sites:
                    self._values[site][index] = values

        hooks.before(linear, keep_input)
        hooks.before(norm, keep_normed)

    def _measures_normed_values(self, layer: AttentionLayer) -> bool:
        """Whether the v neurons of a layer are measured from its attention scores, because its values pass a norm."""
        has_normed_values = layer.v is not None and layer.v_norm is not None
        return has_normed_values and "v" in self.sites and self.score == "importance"

    def _watch_scores(self, hooks: Hooks, index: int, layer: AttentionLayer) -> AttentionListener | None:
        """Adds hooks that measure Q and K neurons, and V neurons whose values pass a norm.

        Returns a listener to register, or None if the hooks are enough.
        """
        has_normed_values = self._measures_normed_values(layer)
        seen: list[ScoreInputs] = []

        def keep_importance(inputs: ScoreInputs) -> None:
            valid, counted = self._tokens_on(inputs.query.device)
            for site, x in (("q", inputs.q), ("k", inputs.k), ("v", inputs.v)):
                if x is not None:
                    require_every_token(x, valid.numel(), site, index)
            if {"q", "k"} & set(self.sites):
                q, k = importance_from_scores(
                    inputs, self.decoder, layer, valid, counted, self.rope, self.score, self.qk
                )
                for site, importance in (("q", q), ("k", k)):
                    if site in self.sites and layer.width(site):
                        self._values[site][index] = importance
            if has_normed_values:
                seen.append(inputs)
                if layer.attention_norm is None:
                    keep_values(None)

        def keep_values(output: Tensor | None) -> None:
            inputs = seen.pop()
            valid, counted = self._tokens_on(inputs.query.device)
            if output is not None:
                require_every_token(output, valid.numel(), "v", index)
                output = output.reshape(*valid.shape, -1)
            self._values["v"][index] = value_importance(inputs, output, self.decoder, layer, valid, counted)

        if has_normed_values and layer.attention_norm is not None:
            hooks.before(layer.attention_norm, lambda _, args: keep_values(args[0]))
        return watch_scores(self.decoder, hooks, layer, keep_importance)

    def _tokens_on(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Returns which tokens are valid, and whose queries count, None for those of all valid ones, on a device."""
        counted = self._counted_queries
        return self._valid.to(device), None if counted is None else counted.to(device)

    def _keep_energy(self, site: str, index: int, linear: Linear, x: Tensor) -> None:
        """Stores sum_t x[t, n]^2 ||W[:, n]||^2 for each document, where W is the weight of `linear` and x its input."""
        energy = column_energy(x.flatten(0, -2), self._documents.of(x, site, index))
        self._values[site][index] = energy * self._weight_products.column_norms(linear, x.shape[-1])


class _SeenOnce(dict[int, Tensor]):
    """The values of a site by layer. A second call of a module would replace those of the first."""

    def __init__(self, site: str):
        super().__init__()
        self._site = site

    def __setitem__(self, layer: int, values: Tensor) -> None:
        if layer in self:
            raise UnsupportedModel(
                f"site {self._site} of layer {layer} was seen twice in one forward: the model runs this layer's "
                "modules more than once"
            )
        super().__setitem__(layer, values)


def _select_rows(input_ids: Tensor, mask: Tensor, counted: Tensor, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns some rows of tokens, mask and counted tokens, without the positions where all of them are padded."""
    columns = mask[rows].bool().any(0)
    return input_ids[rows][:, columns.to(input_ids.device)], mask[rows][:, columns], counted[rows][:, columns]


def _join_rows(parts: list[dict[str, Tensor]], order: Tensor) -> dict[str, Tensor]:
    """Joins the values of groups of rows. order: (rows,), the place of each row in the groups one after the other."""
    return {
        site: torch.cat([part[site] for part in parts])[order.to(values.device)] for site, values in parts[0].items()
    }
