"""Every neuron's importance from one forward: what the hooks see is reduced inside the hook.

Nothing of the size of the activations outlives its layer. The model is not changed: hooks and the attention interface
are registered for the forward that is measured, and for no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from pymultiling.errors import UnsupportedModel
from pymultiling.mathematics.sums import document_sum, upcast
from pymultiling.models.attention import listening
from pymultiling.models.decoder import Decoder, Layer, evaluation_mode
from pymultiling.models.experts import Routed, changing
from pymultiling.models.linear import Projection, weight_of
from pymultiling.models.norms import epsilon
from pymultiling.models.spread import weight_for
from pymultiling.neurons.sites import SITES, check_sites
from pymultiling.ops import GatedFFN, column_energy, normed_energy, value_energy
from pymultiling.ops.qk_importance import MODES
from pymultiling.probes.fused_ffn import fused_ffn
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.importance_values import Importance, require_finite
from pymultiling.probes.qk import of_scores
from pymultiling.probes.scores import Scores, watch_scores
from pymultiling.probes.weight_products import FromWeights

SCORES = ("importance", "released")
ROPES = ("pre", "post")


class ImportanceProbe:
    """Measures batches of documents inside a `with` block.

    Weights must not change inside the block: what depends on them alone is computed once. With `fused` the FFNs' product
    is computed by `gated_ffn`, which gives its statistics in the same pass; the model's output then agrees to rounding,
    and bit for bit without. None: for layers on a GPU, where it saves launches and memory traffic; on the CPU it saves
    nothing, by measurement. Mixtures of experts run one way with `fused` and without, their output staying bit for bit if
    the model's experts are transformers' "eager" ones, and agreeing to rounding if they are others.

    `qk` is the mode of qk_importance, "exact" or "fast". A factor by which a model multiplies a sublayer's output before it
    adds it to the residual (Granite's) is no part of the sublayer.
    """

    def __init__(
        self,
        model: nn.Module,
        sites=SITES,
        rope: str = "pre",
        score: str = "importance",
        fused: bool | None = None,
        qk: str = "exact",
    ):
        if rope not in ROPES or score not in SCORES or qk not in MODES:
            raise ValueError(
                f"rope must be one of {ROPES}, score one of {SCORES} and qk one of {MODES}, "
                f"got {rope!r}, {score!r} and {qk!r}"
            )
        self.decoder = Decoder(model)
        self.sites = check_sites(sites)
        self.rope, self.score, self.fused, self.qk = rope, score, fused, qk
        self._from_weights = FromWeights()

    @property
    def rule(self) -> str:
        """What its numbers are, to be compared before numbers of different probes are added."""
        estimated = self.qk != "exact" and {"q", "k"} & set(self.sites)
        return f"{self.score}, rope {self.rope}" + (", q and k estimated" if estimated else "")

    def __enter__(self) -> ImportanceProbe:
        self.decoder.require_weights()
        return self

    def __exit__(self, *error) -> None:
        self._from_weights.clear()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        with ExitStack() as stack:
            hooks = stack.enter_context(Hooks())
            scores = {}
            for index, layer in enumerate(self.decoder.layers):
                if "ffn" in self.sites:
                    self._watch_ffn(stack, hooks, index, layer)
                if {"v", "o"} & set(self.sites):
                    self._watch_output(hooks, index, layer)
                if {"q", "k"} & set(self.sites):
                    scores[layer.attention] = self._watch_scores(hooks, index, layer)
            if scores and self.decoder.family.interface:
                stack.enter_context(listening(self.decoder.model, scores))
            yield

    @torch.no_grad()
    def measure(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Importance:
        """(documents, length) tokens -> {site: (documents, layers, neurons)}, with the errors of what is estimated.

        Raises:
            NonFiniteActivations: naming site, layer and document.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        self._count = input_ids.shape[0]
        self._valid = attention_mask.bool()
        rows = torch.arange(self._count, device=input_ids.device)[:, None]
        self._documents = torch.where(self._valid, rows, -1).flatten()
        self._found: dict[str, dict[int, Tensor]] = {site: {} for site in self.sites}
        self._errors: dict[str, dict[int, Tensor]] = {}
        with evaluation_mode(self.decoder.model), self._watching():
            self.decoder.forward(input_ids, attention_mask)
        found, self._found = self._found, {}
        errors, self._errors = self._errors, {}
        for site, values in found.items():
            if len(values) < len(self.decoder.layers):
                raise UnsupportedModel(
                    f"site {site} was seen in {len(values)} of {len(self.decoder.layers)} layers: the model does not run "
                    "its modules as its family says (pymultiling.Family lists what can differ; without transformers' "
                    "attention interface, interface=False)"
                )
        stacked, of_errors = (
            {site: self._stacked(site, values, input_ids.device) for site, values in kind.items()}
            for kind in (found, errors)
        )
        require_finite(stacked)
        return Importance(stacked, of_errors)

    def _stacked(self, site: str, values: dict[int, Tensor], device: torch.device) -> Tensor:
        """(documents, layers, neurons), of all processes that the model is spread over."""
        found = torch.stack([values[index].to(device) for index in range(len(self.decoder.layers))], 1)
        return self.decoder.tensor_parallel.gather(found, self.decoder.widths()[site])

    def _watch_ffn(self, stack: ExitStack, hooks: Hooks, index: int, layer: Layer) -> None:
        if layer.experts is not None:
            stack.enter_context(changing(layer.experts, lambda routed: self._keep_routed(index, layer, routed)))
            return
        released, alone = self.score == "released", self.decoder.family.ffn_alone
        fused = layer.down.weight.is_cuda if self.fused is None else self.fused
        # Statistics of the product are not those of what a hook at the down projection, such as deactivate's, makes of it.
        fused = fused and layer.ffn_norm is None and not layer.down._forward_pre_hooks
        if alone and (released or fused):

            def keep(ffn: GatedFFN) -> None:
                norms = 1 if released else self._from_weights.column_norms(layer.down, ffn.squares.shape[1])
                self._found["ffn"][index] = ffn.magnitude if released else ffn.squares * norms

            stack.enter_context(fused_ffn(self.decoder.activation, layer, lambda: (self._documents, self._count), keep))
        elif released:
            self._watch_magnitude(hooks, index, layer.up or layer.gate)
        elif layer.ffn_norm is not None:
            self._watch_normed(hooks, layer.down, layer.ffn_norm, {"ffn": (layer.width("ffn"), 1)}, index)
        else:
            hooks.before(layer.down, lambda _, args: self._keep_energy("ffn", index, layer.down, args[0]))

    def _keep_routed(self, index: int, layer: Layer, routed: Routed) -> None:
        experts, documents = layer.experts, self._documents.to(routed.hidden.device)
        if self.score == "released":
            found = experts.magnitude(routed, documents, self._count)
        else:
            found = experts.energy(routed, documents, self._count) * self._from_weights.expert_norms(experts)
        self._found["ffn"][index] = found

    def _watch_magnitude(self, hooks: Hooks, index: int, projection: Projection) -> None:
        def watch(_, args, output: Tensor) -> None:
            x = upcast(projection.of(output).flatten(0, -2)).abs()
            self._found["ffn"][index] = document_sum(x, self._documents.to(x.device), self._count)

        hooks.after(projection.module, watch)

    def _watch_output(self, hooks: Hooks, index: int, layer: Layer) -> None:
        """V and O: the input of o_proj."""
        sites = [site for site in ("v", "o") if site in self.sites]
        if layer.attention_norm is not None and self.score == "importance":
            shapes = {"v": (layer.kv_heads, layer.head_size), "o": (layer.width("o"), 1)}
            self._watch_normed(hooks, layer.o, layer.attention_norm, {site: shapes[site] for site in sites}, index)
            return

        def watch(_, args) -> None:
            x = args[0].flatten(0, -2)
            documents, kv_heads = self._documents.to(x.device), layer.kv_heads * x.shape[1] // layer.width("o")
            if self.score == "released":
                magnitude = document_sum(upcast(x).abs(), documents, self._count)
                by_head = magnitude.view(self._count, kv_heads, -1, layer.head_size)
                found = {"o": magnitude, "v": by_head.sum(2).flatten(1)}
                for site in sites:
                    self._found[site][index] = found[site]
                return
            if "o" in sites:
                self._keep_energy("o", index, layer.o, args[0])
            if "v" in sites:
                gram = self._from_weights.value_gram(layer.o, x.shape[1], kv_heads, layer.head_size)
                self._found["v"][index] = value_energy(x, gram, documents, self._count)

        hooks.before(layer.o, watch)

    def _watch_normed(
        self, hooks: Hooks, linear: nn.Module, norm: nn.Module, shapes: dict[str, tuple[int, int]], index: int
    ) -> None:
        """Sites whose projection's output passes a norm: needs the projection's input and its output.

        shapes: for each site the heads of neurons among the projection's columns, and their size.
        """
        inputs = []
        hooks.before(linear, lambda _, args: inputs.append(args[0].flatten(0, -2)))

        def watch(_, args) -> None:
            x, multiplier = inputs.pop(), self.decoder.multiplier(norm)
            weight, all_inputs = weight_for(linear, x.shape[1]), weight_of(linear).shape[1]
            for site, (heads, size) in shapes.items():
                heads = heads * x.shape[1] // all_inputs  # of the part that is this process's
                gram, scaled_gram = self._from_weights.grams(linear, x.shape[1], multiplier, heads, size)
                documents = self._documents.to(x.device)
                self._found[site][index] = normed_energy(
                    x,
                    args[0].flatten(0, -2),
                    weight,
                    multiplier,
                    gram,
                    scaled_gram,
                    epsilon(norm),
                    documents,
                    self._count,
                )

        hooks.before(norm, watch)

    def _watch_scores(self, hooks: Hooks, index: int, layer: Layer) -> Callable | None:
        """Q and K: returns what listens to the attention, where it can be listened to."""

        def see(scores: Scores) -> None:
            valid = self._valid.to(scores.query.device)
            q, k, *errors = of_scores(scores, self.decoder, layer, valid, self.rope, self.score, self.qk)
            for site, importance in (("q", q), ("k", k)):
                if site in self.sites:
                    self._found[site][index] = importance
            for site, error in zip(("q", "k"), errors):
                if site in self.sites:
                    self._errors.setdefault(site, {})[index] = error

        return watch_scores(self.decoder, hooks, layer, see)

    def _keep_energy(self, site: str, index: int, linear: nn.Module, x: Tensor) -> None:
        energy = column_energy(x.flatten(0, -2), self._documents.to(x.device), self._count)
        self._found[site][index] = energy * self._from_weights.column_norms(linear, x.shape[-1])
