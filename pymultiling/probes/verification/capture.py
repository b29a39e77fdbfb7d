"""Watches a model's layers during one forward, and compares what each module computes with what it should."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from pymultiling.mathematics.sums import upcast
from pymultiling.models.activations import activation_function
from pymultiling.models.attention import AttentionListener
from pymultiling.models.decoder import AttentionLayer, Decoder, Layer, SharedExpert
from pymultiling.models.experts import Experts, attached_changes
from pymultiling.models.linear import Linear, Projection
from pymultiling.models.norms import epsilon
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.scores import ScoreInputs, watch_scores
from pymultiling.probes.verification import advice
from pymultiling.probes.verification.ffn import expert_norms, product_norms, same_norms, shared_norms
from pymultiling.probes.verification.fingerprint import is_ours
from pymultiling.probes.verification.linear import Norms, linear_norms, plain_output
from pymultiling.probes.verification.plan import Plan
from pymultiling.probes.verification.report import Check, Comparisons
from pymultiling.probes.verification.rounding import ACCUMULATION, column_norms, internal_roundoff, is_same
from pymultiling.probes.verification.score_checks import check_scores


class LayerWatch:
    """Watches one layer in one forward."""

    def __init__(
        self, decoder: Decoder, layer: Layer, names: dict[nn.Module, str], comparisons: Comparisons, plan: Plan
    ):
        self.decoder, self.layer, self._names, self._comparisons = decoder, layer, names, comparisons
        self._plan, self._is_plain = plan, plan.kind == "as it is"
        self._outputs: dict[nn.Module, Tensor] = {}  # of linear modules, after all hooks
        self._expected: dict[nn.Module, Tensor] = {}
        self._versions: dict[nn.Module, int | None] = {}  # of q, k and v: torch counts changes in place
        self._summed: set[Check] = set()  # sublayers whose sum with the residual was compared
        self._calls: Counter[nn.Module] = Counter()
        self._tokens: dict[nn.Module, int] = {}  # of the call with the fewest tokens
        self._attended: Tensor | None = None  # (B, l, H d), the input of o before hooks change it
        self._norm_input: Tensor | None = None  # the input of a norm that the FFN returns
        self._product: Tensor | None = None  # (.., N), the input of down before hooks change it
        self._scores: ScoreInputs | None = None
        self._thread = threading.get_ident()
        # Hooks of this package change outputs as they should. Others must leave them as they are.
        self._changed_by_us = {
            module for module in self._linear_modules() if any(map(is_ours, tuple(module._forward_hooks.values())))
        }

    def attach(self, stack: ExitStack, hooks: Hooks) -> dict[nn.Module, AttentionListener]:
        """Adds the hooks. Returns {attention: listener} to register with `listen_to_attention`."""
        layer = self.layer
        for module, checks in self._linear_modules().items():
            if self._is_plain:
                raw = module.register_forward_hook(self._in_this_thread(self._keep_raw(checks)), prepend=True)
                stack.callback(raw.remove)
            hooks.after(module, self._keep_output(checks))
        listeners: dict[nn.Module, AttentionListener] = {}
        if isinstance(layer, AttentionLayer):
            listeners = self._attach_to_attention(layer, stack, hooks)
        if isinstance(layer.ffn_parts, Experts):
            hooks.after(layer.ffn_parts.module, self._surviving(["ffn"], self._check_experts))
        if layer.dense is not None and self._is_plain:
            early = layer.dense.down.register_forward_pre_hook(self._in_this_thread(self._keep_product), prepend=True)
            stack.callback(early.remove)
        if layer.shared is not None and layer.shared.gate is not None:
            hooks.after(layer.shared.gate, self._keep_gate)
        if layer.shared is not None and layer.shared.module is not None:
            check_in_layer = partial(self._check_shared_in_layer, layer.shared.parts.down)
            hooks.after(layer.shared.module, self._surviving(["ffn"], check_in_layer))
        if layer.ffn_norm is not None and layer.returns_normed:
            hooks.after(layer.ffn_norm, self._keep_normed)
        if self.decoder.family.ffn:
            hooks.after(layer.ffn, self._surviving(["ffn"], self._check_ffn))
        else:
            hooks.after(layer.down or layer.ffn, self._surviving(["product"], self._check_product))
        if isinstance(layer, AttentionLayer) and layer.sums:
            self._attach_to_plain_sums(layer, hooks)
        if self._is_plain:
            if isinstance(layer, AttentionLayer) and layer.attention_norm is not None:
                check_norm = self._check_norm(layer.attention_norm, layer.o, ("v", "o"))
                hooks.after(layer.attention_norm, self._surviving(["o"], check_norm))
            if isinstance(layer, AttentionLayer) and layer.sum_norms is not None:
                self._attach_to_sums(layer, layer.sum_norms, hooks)
            if layer.ffn_norm is not None:
                check_norm = self._check_norm(layer.ffn_norm, layer.down or layer.ffn, ("ffn",))
                hooks.after(layer.ffn_norm, self._surviving(["ffn"], check_norm))
        return listeners

    def _attach_to_attention(
        self, layer: AttentionLayer, stack: ExitStack, hooks: Hooks
    ) -> dict[nn.Module, AttentionListener]:
        early = layer.o.register_forward_pre_hook(self._in_this_thread(self._keep_attended), prepend=True)
        stack.callback(early.remove)
        listener = None
        if self._plan.scores:
            listener = watch_scores(self.decoder, hooks, layer, self._keep_scores)
        if layer.output_gate is not None and layer.output_gate.module is not layer.q.module:
            hooks.after(layer.output_gate.module, self._keep_gate)
        hooks.before_with_keywords(layer.attention, self._forget)
        hooks.after(layer.attention, self._surviving(["o"], partial(self._check_attention, layer)))
        return {} if listener is None else {layer.core: listener}

    def _attach_to_sums(self, layer: AttentionLayer, norms: tuple[nn.Module, nn.Module], hooks: Hooks) -> None:
        """Adds hooks that compare what the norms of sums get with the outputs of o and down plus the residual."""
        residuals: list[Tensor] = []  # the input of the attention, or the output of the norm behind it

        def keep(module: nn.Module, args: tuple[Any, ...], *output: Any) -> None:
            if output or args:
                residuals[:] = [_first(output[0]) if output else args[0]]

        def compare(check: Check, linear: Linear, norm: nn.Module, args: tuple[Tensor, ...]) -> None:
            subject = f"{self._names[norm]} does not get the residual plus the output of {self._names[linear]}"
            if residuals and linear in self._outputs:
                norms = same_norms(self._outputs[linear], args[0], residuals.pop())
                self._comparisons.compare(check, subject, advice.OUTPUT, *norms)
                self._summed.add(check)

        sums: tuple[tuple[Check, Linear | None], ...] = ("o", layer.o), ("ffn", layer.down)
        hooks.before(layer.attention, keep)
        for norm, (check, linear) in zip(norms, sums):
            if linear is not None:
                hooks.before(norm, self._surviving([check], partial(compare, check, linear)))
        hooks.after(norms[0], keep)

    def _attach_to_plain_sums(self, layer: AttentionLayer, hooks: Hooks) -> None:
        """Adds hooks that compare what modules that add the residual return with the outputs of o and down plus it."""

        def check_sum(check: Check, linear: Linear, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._outputs[module] = _first(output)
            if self._plan.kind != "scores" and linear in self._outputs:
                self._check_sublayer(check, self._names[module], linear, _first(output), args)
                self._summed.add(check)

        sublayers: tuple[tuple[Check, Linear | None], ...] = ("o", layer.o), ("ffn", layer.down)
        for module, (check, linear) in zip(layer.sums, sublayers):
            if linear is not None:
                hooks.after(module, self._surviving([check], partial(check_sum, check, linear)))

    def finish(self) -> None:
        """Reports modules that were not called, or not once with every token. It is called after the forward."""
        for module, checks in self._linear_modules().items():
            if module not in self._calls:
                for check in checks:
                    self._comparisons.depart(
                        check,
                        f"the model's forward does not call {self._names[module]}, so that hooks do not see its "
                        "neurons: use transformers' own forward, or leave this site out",
                    )
            for check in checks:
                self._report_calls(check, module)
        if isinstance(self.layer, AttentionLayer) and self._is_plain:
            self._report_sums(self.layer.sum_norms or self.layer.sums)
        experts = self.layer.experts
        if experts is not None:
            if experts.module not in self._calls:
                self._comparisons.depart(
                    "ffn", f"the model's forward does not call {self._names[experts.module]}: leave ffn out"
                )
            self._report_calls("ffn", experts.module)

    def _report_sums(self, modules: tuple[nn.Module, ...]) -> None:
        """Reports modules of `sum_norms` or `sums` that do not run behind the projection whose output they get."""
        checks: tuple[Check, ...] = ("o", "ffn")
        for module, check in zip(modules, checks):
            if check not in self._summed:
                subject = f"{self._names[module]} does not run behind the last projection of its sublayer"
                self._comparisons.depart(check, f"{subject}: {advice.OUTPUT}")

    def _report_calls(self, check: Check, module: nn.Module) -> None:
        """Reports a module that is called several times, of which a probe would keep the last, or with some tokens."""
        calls, tokens, all_tokens = self._calls[module], self._tokens.get(module), self._plan.valid.numel()
        how = f"{calls} times" if calls > 1 else f"with {tokens} of {all_tokens} tokens"
        if calls > 1 or (calls == 1 and tokens != all_tokens):
            subject = f"the model's forward calls {self._names[module]} {how}, and not once with every token"
            self._comparisons.depart(cast("Check", f"{check} once"), f"{subject}: {advice.ONCE}")

    def _count(self, module: nn.Module, x: Tensor) -> None:
        self._calls[module] += 1
        self._tokens[module] = min(x.numel() // x.shape[-1], self._tokens.get(module, sys.maxsize))

    def _surviving(self, checks: list[Check], hook: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a hook whose errors fail these checks."""

        def guarded(module: nn.Module, *arguments: Any) -> Any:
            with self._comparisons.surviving(checks, self._names[module]):
                return hook(module, *arguments)

        return guarded

    def _linear_modules(self) -> dict[Linear, dict[Check, Projection | None]]:
        """Returns {module: {check: projection whose outputs belong to it, or None for all outputs}}."""
        layer = self.layer
        modules: dict[Linear, dict[Check, Projection | None]] = {}
        if isinstance(layer, AttentionLayer):
            for check, projection, _ in layer.projections():
                modules.setdefault(projection.module, {})[cast("Check", check)] = projection
            modules[layer.o] = {"o": None}
        if layer.dense is not None:
            for part in (layer.dense.gate, layer.dense.up):
                if part is not None:
                    modules.setdefault(part.module, {})["ffn"] = None
            modules[layer.dense.down] = {"ffn": None}
        return modules

    def _in_this_thread(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """A forward of another thread is none of ours."""

        def guarded(*arguments: Any) -> Any:
            return hook(*arguments) if threading.get_ident() == self._thread else None

        return guarded

    def _keep_raw(self, checks: dict[Check, Projection | None]) -> Callable[..., None]:
        """Returns a hook before all others, which sees the input and the output of the module's own forward."""

        def keep(module: Linear, args: tuple[Tensor, ...], output: Tensor) -> None:
            expected = plain_output(module, args[0])
            if module in self._changed_by_us:
                self._report_linear(module, checks, args[0], expected, output)
            else:
                self._expected[module] = expected

        return keep

    def _keep_output(self, checks: dict[Check, Projection | None]) -> Callable[..., None]:
        def keep(module: Linear, args: tuple[Tensor, ...], output: Tensor) -> None:
            self._count(module, args[0])
            # An FFN may add the output of its experts to that of the shared one in place.
            is_shared = self.layer.shared is not None and module is self.layer.shared.parts.down
            self._outputs[module] = output.clone() if is_shared else output
            self._versions[module] = _version(output)
            expected = self._expected.pop(module, None)
            if expected is not None:
                self._report_linear(module, checks, args[0], expected, output)

        return keep

    def _report_linear(
        self, module: Linear, checks: dict[Check, Projection | None], x: Tensor, expected: Tensor, output: Tensor
    ) -> None:
        if is_same(expected, output):  # the usual case
            for check in checks:
                self._comparisons.agree(check)
            return
        norms = linear_norms(module, x, expected, output)
        subject = f"{self._names[module]} does not return its weight times its input plus its bias"
        for check, projection in checks.items():
            own = norms if projection is None else Norms(*(projection.select(part) for part in norms))
            self._comparisons.compare(check, subject, advice.WEIGHT, *own)

    def _keep_attended(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._attended = args[0]

    def _keep_product(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._product = args[0]

    def _keep_gate(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self._outputs[module] = output

    def _keep_normed(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self._outputs[module], self._norm_input = output, args[0]

    def _keep_scores(self, inputs: ScoreInputs) -> None:
        self._scores = inputs

    def _forget(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._scores = self._attended = None

    def _check_attention(self, layer: AttentionLayer, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        name = self._names[module]
        if self._is_plain and self.decoder.family.clip is None:
            self._check_in_place(layer, name)
        if self._plan.scores:
            with self._comparisons.surviving(["scores"], name):
                self._check_scores(layer, name)
        last = layer.sums[0] if layer.sums else layer.o
        if self._plan.kind != "scores" and last in self._outputs and layer.sum_norms is None:
            self._check_sublayer("o", name, last, _first(output), args)

    def _check_in_place(self, layer: AttentionLayer, name: str) -> None:
        """Checks that q, k and v are still what hooks saw of them."""
        for _, projection, _ in layer.projections():
            output = self._outputs.get(projection.module)
            if output is not None and _version(output) != self._versions[projection.module]:
                subject = f"{name} changes the output of {self._names[projection.module]} in place, after hooks saw it"
                self._comparisons.depart("scores", f"{subject}: {advice.CLIP}")

    def _check_scores(self, layer: AttentionLayer, name: str) -> None:
        inputs = self._scores
        values = layer.v or layer.k  # the projection of the values
        if inputs is None or self._attended is None or (values is not None and values.module not in self._outputs):
            return
        value = None if values is None else values.select(self._outputs[values.module]).flatten(1, -2)
        attended = self._attended.view(*self._plan.valid.shape, -1)
        gate = None
        if layer.output_gate is not None:
            gate = layer.output_gate.select(self._outputs[layer.output_gate.module])
        check_scores(self.decoder, layer, name, inputs, value, gate, attended, self._plan, self._comparisons)

    def _check_sublayer(self, check: Check, name: str, last: nn.Module, output: Tensor, args: tuple[Any, ...]) -> None:
        """Checks that a sublayer returns the output of its last module, such as a projection.

        BLOOM's sublayers, and the modules of `Family.sums`, add the residual, their second argument.
        """
        own = self._outputs[last]
        subject = f"{name} does not return the output of {self._names[last]}"
        if own is output:
            self._comparisons.agree(check)
            return
        if own.numel() != output.numel():  # the last of several calls, or some of the tokens
            self._comparisons.depart(check, f"{subject}: {advice.OUTPUT}")
            return
        norms = same_norms(own, output)
        residual = args[1] if len(args) > 1 else None
        if isinstance(residual, Tensor) and residual.shape == output.shape and not self.decoder.family.ffn_alone:
            norms = same_norms(own, output, residual)
        self._comparisons.compare(check, subject, advice.OUTPUT, *norms)

    def _check_experts(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        experts = self.layer.experts
        if experts is None:
            return
        self._outputs[module] = experts.summed(output)
        self._count(module, self._outputs[module])
        if not self._is_plain or attached_changes(experts):
            return
        expected = experts.run((), *args)
        subject = f"{self._names[module]} does not compute the sum over experts of p down(act(gate) up)"
        norms = expert_norms(expected, output, experts.sum_length)
        self._comparisons.compare("ffn", subject, advice.WEIGHT, *norms)

    def _check_ffn(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._plan.kind == "scores":
            return
        self._outputs[module] = summed = _first(output)
        name = self._names[module]
        layer, last = self.layer, self.layer.down or (self.layer.experts and self.layer.experts.module)
        if layer.returns_normed and layer.ffn_norm is not None:
            if self._norm_input is None:
                self._comparisons.depart("ffn", f"{name} does not call {self._names[layer.ffn_norm]}: {advice.OUTPUT}")
                return
            self._check_sublayer("ffn", name, layer.ffn_norm, summed, args)
            summed = self._norm_input
        if layer.shared is not None and layer.shared.module is None:
            self._check_shared(name, layer.shared, summed)
        elif last in self._outputs:
            self._check_sublayer("ffn", name, last, summed, args)
        self._check_product(module, args, output)

    def _check_shared_in_layer(self, down: Linear, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self._plan.kind == "scores":
            return
        if down in self._outputs:
            self._check_sublayer("ffn", self._names[module], down, output, args)
        self._check_product(module, args, output)

    def _check_shared(self, name: str, shared: SharedExpert, output: Tensor) -> None:
        """Checks that an FFN returns the sum of its experts and its shared expert, which it multiplies by its gate."""
        experts = self.layer.experts
        if experts is None:
            return
        needed: list[nn.Module] = [experts.module, shared.parts.down, *([] if shared.gate is None else [shared.gate])]
        outputs = [self._outputs[module] for module in needed if module in self._outputs]
        if len(outputs) < len(needed):
            problem = f"{name} does not call its experts, its shared expert and the gate of it"
            self._comparisons.depart("ffn", f"{problem}: {advice.OUTPUT}")
            return
        routed, own, *gate = outputs
        subject = f"{name} does not return the sum of its experts and its shared expert"
        norms = shared_norms(routed, own, gate[0] if gate else None, output, experts.layout.output_scale)
        self._comparisons.compare("ffn", subject, advice.OUTPUT, *norms)

    def _check_product(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        ffn, product = self.layer.dense, self._product
        if ffn is None or product is None:
            return
        if any(part is not None and part.module not in self._outputs for part in (ffn.gate, ffn.up)):
            return
        gate = ffn.gate.select(self._outputs[ffn.gate.module])
        up = None if ffn.up is None else ffn.up.select(self._outputs[ffn.up.module])
        activation, compare = self.decoder.activation, self._comparisons.compare
        is_sparse = ffn.gate_sparsity > 0
        name = self._names[self.layer.ffn] if self.decoder.family.ffn else f"the FFN of {self._names[self.layer.ffn]}"
        subject = f"the input of {name}'s down projection is not {activation}({'sparse ' * is_sparse}gate) up"
        if up is None:
            subject = f"the input of {name}'s down projection is not {activation}(up)"
        norms, operator_norms = product_norms(
            None if is_sparse else activation, activation_function(self.decoder, self.layer), gate, up, product
        )
        compare("product", subject, advice.PRODUCT, *norms)
        if operator_norms is not None:
            subject = f"the operator gated_ffn does not give the input of {name}'s down projection"
            compare("product", subject, advice.OPERATOR, *operator_norms)
        self._product = None

    def _check_norm(self, norm: nn.Module, source: nn.Module, checks: tuple[Check, ...]) -> Callable[..., None]:
        """Returns a hook after the norm of the output of `source`, which fails these checks."""

        def compare(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            x = upcast(args[0])
            expected = x / (x.square().mean(-1, keepdim=True) + epsilon(norm)).sqrt() * self.decoder.multiplier(norm)
            size = column_norms(expected)
            tolerance = (4 * internal_roundoff(output.dtype) + x.shape[-1] * ACCUMULATION) * size
            subject = f"{self._names[module]} does not compute an RMSNorm with its weight and its family's norm_offset"
            comparisons = [(subject, Norms(column_norms(upcast(output) - expected), tolerance, size))]
            if source in self._outputs:
                subject = f"{self._names[module]} does not get the output of {self._names[source]}"
                comparisons.append((subject, same_norms(self._outputs[source], args[0])))
            for each in checks:
                for subject, norms in comparisons:
                    self._comparisons.compare(each, subject, advice.OUTPUT, *norms)

        return compare


def _version(x: Tensor) -> int | None:
    """Returns how often x was changed in place, which torch does not count in inference mode."""
    return None if x.is_inference() else x._version


def _first(output: Any) -> Tensor:
    tensor: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    return tensor
