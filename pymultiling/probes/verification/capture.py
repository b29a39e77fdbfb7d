"""Watches a model's layers during one forward, and compares what each module computes with what it should."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from pymultiling.mathematics.sums import upcast
from pymultiling.models.attention import AttentionListener
from pymultiling.models.decoder import Decoder, DenseFFN, Layer
from pymultiling.models.experts import Experts, attached_changes
from pymultiling.models.linear import Linear, Projection
from pymultiling.models.norms import epsilon
from pymultiling.models.routing import run_experts
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.scores import ScoreInputs, watch_scores
from pymultiling.probes.verification.attention import output_norms, passed_heads, passed_norms
from pymultiling.probes.verification.ffn import expert_norms, product_norms, same_norms
from pymultiling.probes.verification.fingerprint import is_ours
from pymultiling.probes.verification.linear import Norms, linear_norms, plain_output
from pymultiling.probes.verification.report import Check, Comparisons
from pymultiling.probes.verification.rounding import ACCUMULATION, column_norms, internal_roundoff

WEIGHT_ADVICE = "merge what its class, forward or hooks add into its weight, or leave this site out"
SCORE_ADVICE = (
    "load the model with attn_implementation='eager', correct its configuration or the family's entry (register_family)"
    ", or leave q and k out"
)
PRODUCT_ADVICE = (
    "correct `activation` or the projections in the family's entry (register_family); importance can be measured with "
    "fused=False where only the activation differs"
)
OUTPUT_ADVICE = "remove the hook or forward that changes it, or leave this site out"
STRIDE = 8  # one neuron of so many is set to zero in the second forward


@dataclass(frozen=True)
class Plan:
    """What one forward checks.

    Attributes:
        valid: (documents, length) bool, False for padding, on the CPU.
        zeroed: whether neurons of q, k and v are set to zero by hooks, and what follows from it is checked, rather than
            the weights.
        scores: whether attention scores are checked.
    """

    valid: Tensor
    zeroed: bool
    scores: bool


class LayerWatch:
    """Watches one layer in one forward."""

    def __init__(
        self, decoder: Decoder, layer: Layer, names: dict[nn.Module, str], comparisons: Comparisons, plan: Plan
    ):
        self.decoder, self.layer, self._names, self._comparisons = decoder, layer, names, comparisons
        self._plan = plan
        self._outputs: dict[nn.Module, Tensor] = {}  # of linear modules, after all hooks
        self._expected: dict[nn.Module, Tensor] = {}
        self._called: set[nn.Module] = set()
        self._attended: Tensor | None = None  # (B, l, H d), the input of o before hooks change it
        self._product: Tensor | None = None  # (.., N), the input of down before hooks change it
        self._scores: ScoreInputs | None = None
        self._thread = threading.get_ident()
        # Hooks of this package change outputs as they should. Others must leave them as they are.
        self._changed_by_us = {
            module for module in self._linear_modules() if any(map(is_ours, tuple(module._forward_hooks.values())))
        }

    def attach(self, stack: ExitStack, hooks: Hooks) -> AttentionListener | None:
        """Adds the hooks. Returns a listener to register with `listen_to_attention`, or None."""
        layer = self.layer
        for module, checks in self._linear_modules().items():
            raw = module.register_forward_hook(self._in_this_thread(self._keep_raw(checks)), prepend=True)
            stack.callback(raw.remove)
            if self._plan.zeroed:
                self._zero(hooks, module)
            hooks.after(module, self._keep_output(checks))
        early = layer.o.register_forward_pre_hook(self._in_this_thread(self._keep_attended), prepend=True)
        stack.callback(early.remove)
        listener = None
        if self._plan.scores:
            listener = watch_scores(self.decoder, hooks, layer, self._keep_scores)
        hooks.before_with_keywords(layer.attention, self._forget)
        hooks.after(layer.attention, self._check_attention)
        if isinstance(layer.ffn_parts, Experts):
            hooks.after(layer.ffn_parts.module, self._check_experts)
        elif layer.down is not None:
            early = layer.down.register_forward_pre_hook(self._in_this_thread(self._keep_product), prepend=True)
            stack.callback(early.remove)
        if self.decoder.family.ffn:
            hooks.after(layer.ffn, self._check_ffn)
        else:
            hooks.after(layer.down or layer.ffn, self._check_product)
        if not self._plan.zeroed:
            for norm, check in ((layer.attention_norm, "o"), (layer.ffn_norm, "ffn")):
                if norm is not None:
                    hooks.after(norm, self._check_norm(norm, cast("Check", check)))
        return listener

    def finish(self) -> None:
        """Reports modules that were not called. It is called after the forward."""
        for module, checks in self._linear_modules().items():
            if module not in self._called:
                for check in checks:
                    self._comparisons.depart(
                        check,
                        f"the model's forward does not call {self._names[module]}, so that hooks do not see its "
                        "neurons: use transformers' own forward, or leave this site out",
                    )
        experts = self.layer.experts
        if experts is not None and experts.module not in self._called:
            self._comparisons.depart(
                "ffn", f"the model's forward does not call {self._names[experts.module]}: leave ffn out"
            )

    def _linear_modules(self) -> dict[Linear, dict[Check, Projection | None]]:
        """Returns {module: {check: projection whose outputs belong to it, or None for all outputs}}."""
        layer = self.layer
        modules: dict[Linear, dict[Check, Projection | None]] = {}
        for check, projection in (("q", layer.q), ("k", layer.k), ("v", layer.v)):
            modules.setdefault(projection.module, {})[cast("Check", check)] = projection
        modules[layer.o] = {"o": None}
        if isinstance(layer.ffn_parts, DenseFFN):
            for part in (layer.ffn_parts.gate, layer.ffn_parts.up):
                if part is not None:
                    modules.setdefault(part.module, {})["ffn"] = None
            modules[layer.ffn_parts.down] = {"ffn": None}
        return modules

    def _in_this_thread(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """A forward of another thread is none of ours."""

        def guarded(*arguments: Any) -> Any:
            return hook(*arguments) if threading.get_ident() == self._thread else None

        return guarded

    def _keep_raw(self, checks: dict[Check, Projection | None]) -> Callable[..., None]:
        """Returns a hook before all others, which sees the input and the output of the module's own forward."""

        def keep(module: Linear, args: tuple[Tensor, ...], output: Tensor) -> None:
            self._called.add(module)
            if self._plan.zeroed:
                if module is self.layer.o:
                    self._check_values(args[0])
                return
            expected = plain_output(module, args[0])
            if module in self._changed_by_us:
                self._report_linear(module, checks, args[0], expected, output)
            else:
                self._expected[module] = expected

        return keep

    def _keep_output(self, checks: dict[Check, Projection | None]) -> Callable[..., None]:
        def keep(module: Linear, args: tuple[Tensor, ...], output: Tensor) -> None:
            self._outputs[module] = output
            expected = self._expected.pop(module, None)
            if expected is not None:
                self._report_linear(module, checks, args[0], expected, output)

        return keep

    def _report_linear(
        self, module: Linear, checks: dict[Check, Projection | None], x: Tensor, expected: Tensor, output: Tensor
    ) -> None:
        is_alike = (expected.device, expected.dtype) == (output.device, output.dtype)
        if is_alike and torch.equal(expected, output):  # the usual case
            for check in checks:
                self._comparisons.agree(check)
            return
        norms = linear_norms(module, x, expected, output)
        subject = f"{self._names[module]} does not return its weight times its input plus its bias"
        for check, projection in checks.items():
            own = norms if projection is None else Norms(*(projection.select(part) for part in norms))
            self._comparisons.compare(check, subject, WEIGHT_ADVICE, *own)

    def _zero(self, hooks: Hooks, module: Linear) -> None:
        """Sets some neurons of q, k and v to zero, as `deactivate` does."""
        layer = self.layer
        indices = [
            projection.row_indices()[::STRIDE]
            for projection in (layer.q, layer.k, layer.v)
            if projection.module is module
        ]
        if indices:
            index = torch.cat(indices)
            hooks.after(module, lambda _, args, output: output.index_fill(-1, index.to(output.device), 0))

    def _check_values(self, attended: Tensor) -> None:
        """Checks that values that are zero contribute nothing: the input of o is zero at their dimensions."""
        layer = self.layer
        is_zero = torch.zeros(layer.kv_heads, layer.head_size, dtype=torch.bool)
        is_zero.view(-1)[::STRIDE] = True
        columns = is_zero.repeat_interleave(layer.heads // layer.kv_heads, 0).flatten().to(attended.device)
        valid = self._plan.valid.to(attended.device)
        left = column_norms(attended.view(*valid.shape, -1)[valid][:, columns])
        subject = f"{self._names[layer.attention]} does not sum up what hooks make of {self._names[layer.v.module]}"
        self._comparisons.compare("v", subject, OUTPUT_ADVICE, left, torch.zeros_like(left), torch.ones_like(left))

    def _keep_attended(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._attended = args[0]

    def _keep_product(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._product = args[0]

    def _keep_scores(self, inputs: ScoreInputs) -> None:
        self._scores = inputs

    def _forget(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._scores = self._attended = None

    def _check_attention(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        layer, name = self.layer, self._names[module]
        if self._plan.scores:
            self._check_scores(name)
        if not self._plan.zeroed and layer.o in self._outputs:
            self._check_sublayer("o", name, layer.o, _first(output), args)

    def _check_scores(self, name: str) -> None:
        layer, inputs, valid = self.layer, self._scores, self._plan.valid
        family = self.decoder.family
        if inputs is None or self._attended is None or layer.v.module not in self._outputs:
            return
        dtype = inputs.q.dtype
        if family.interface:
            for site, given in (("q", inputs.query), ("k", inputs.key)):
                expected, magnitude = passed_heads(inputs, self.decoder, layer, site)
                subject = (
                    f"{name} does not pass on the {site} heads that the norms, clip and rotation of its family give"
                )
                norms = passed_norms(given, expected, magnitude, valid, dtype)
                self._comparisons.compare("scores", subject, SCORE_ADVICE, *norms)
        value = layer.v.select(self._outputs[layer.v.module])
        if family.clip is not None:
            value = value.clamp(-family.clip, family.clip)
        subject = (
            f"{name} computes other attention than softmax(scores) v with scale {inputs.scale:.4g}, window "
            f"{inputs.window} and soft cap {inputs.softcap}"
        )
        attended = self._attended.view(*valid.shape, -1)
        norms = output_norms(inputs, value, attended, valid, family.interface)
        self._comparisons.compare("scores", subject, SCORE_ADVICE, *norms)

    def _check_sublayer(self, check: Check, name: str, linear: Linear, output: Tensor, args: tuple[Any, ...]) -> None:
        """Checks that a sublayer returns the output of its last projection.

        BLOOM's sublayers add the residual, their second argument.
        """
        own = self._outputs[linear]
        if own is output:
            self._comparisons.agree(check)
            return
        norms = same_norms(own, output)
        residual = args[1] if len(args) > 1 else None
        if isinstance(residual, Tensor) and residual.shape == output.shape and not self.decoder.family.ffn_alone:
            norms = same_norms(own, output, residual)
        subject = f"{name} does not return the output of {self._names[linear]}"
        self._comparisons.compare(check, subject, OUTPUT_ADVICE, *norms)

    def _check_experts(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self._called.add(module)
        experts = self.layer.experts
        if experts is None or self._plan.zeroed or attached_changes(experts):
            return
        expected = run_experts(experts.module, (), *args)
        self._outputs[module] = output
        subject = f"{self._names[module]} does not compute the sum over experts of p down(act(gate) up)"
        length = sum(experts.module.down_proj.shape[1:])
        self._comparisons.compare("ffn", subject, WEIGHT_ADVICE, *expert_norms(expected, output, length))

    def _check_ffn(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._plan.zeroed:
            return
        layer, last = self.layer, self.layer.down or (self.layer.experts and self.layer.experts.module)
        if last in self._outputs:
            self._check_sublayer("ffn", self._names[module], cast("Linear", last), _first(output), args)
        if layer.experts is None:
            self._check_product(module, args, output)

    def _check_product(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        ffn, product = self.layer.ffn_parts, self._product
        if self._plan.zeroed or not isinstance(ffn, DenseFFN) or product is None:
            return
        if any(part is not None and part.module not in self._outputs for part in (ffn.gate, ffn.up)):
            return
        gate = ffn.gate.select(self._outputs[ffn.gate.module])
        up = None if ffn.up is None else ffn.up.select(self._outputs[ffn.up.module])
        activation = self.decoder.activation
        name = self._names[self.layer.ffn] if self.decoder.family.ffn else f"the FFN of {self._names[self.layer.ffn]}"
        subject = f"the input of {name}'s down projection is not {activation}(gate) up"
        if up is None:
            subject = f"the input of {name}'s down projection is not {activation}(up)"
        self._comparisons.compare("product", subject, PRODUCT_ADVICE, *product_norms(activation, gate, up, product))
        self._product = None

    def _check_norm(self, norm: nn.Module, check: Check) -> Callable[..., None]:
        def compare(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            linear = self.layer.o if check == "o" else self.layer.down
            x = upcast(args[0])
            expected = x / (x.square().mean(-1, keepdim=True) + epsilon(norm)).sqrt() * self.decoder.multiplier(norm)
            size = column_norms(expected)
            tolerance = (4 * internal_roundoff(output.dtype) + x.shape[-1] * ACCUMULATION) * size
            subject = f"{self._names[module]} does not compute an RMSNorm with its weight and its family's norm_offset"
            comparisons = [(subject, Norms(column_norms(upcast(output) - expected), tolerance, size))]
            if linear is not None and linear in self._outputs:
                subject = f"{self._names[module]} does not get the output of {self._names[linear]}"
                comparisons.append((subject, same_norms(self._outputs[linear], args[0])))
            checks: tuple[Check, ...] = ("v", "o") if check == "o" else ("ffn",)
            for each in checks:
                for subject, norms in comparisons:
                    self._comparisons.compare(each, subject, OUTPUT_ADVICE, *norms)

        return compare


def _first(output: Any) -> Tensor:
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor
