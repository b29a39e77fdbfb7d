"""Hidden states: a layer gets what the layer before it returns, and the final modules make the model's output of it."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from pymultiling.models.decoder import Decoder
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.verification.ffn import same_norms
from pymultiling.probes.verification.report import Comparisons
from pymultiling.probes.verification.rounding import roundoff

ADVICE = "use transformers' own forward, or correct `layers` and `final` in the family's entry (register_family)"


class StatesWatch:
    """Watches the hidden states between the layers in one forward."""

    def __init__(self, decoder: Decoder, names: dict[nn.Module, str], comparisons: Comparisons, hooks: Hooks):
        self._decoder, self._names, self._comparisons = decoder, names, comparisons
        self._states: Tensor | None = None  # the output of the layer that ran last
        self._called = 0
        for index, layer in enumerate(decoder.layer_modules()):
            hooks.before_with_keywords(layer, partial(self._check_input, index))
            hooks.after(layer, self._keep_output)

    def finish(self, output: Tensor) -> None:
        """Compares the model's output, (documents, length, hidden), with the final modules' of the last layer's."""
        if self._states is None or self._called < len(self._decoder.layers):
            self._comparisons.depart(
                "layers", f"{self._called} of {len(self._decoder.layers)} layers were called in their order: {ADVICE}"
            )
            return
        if self._decoder.family.hidden_streams:
            return
        expected = self._states
        for module in self._decoder.final_modules:
            expected = module(expected)
        final = ", ".join(self._decoder.family.final)
        made = f"what {final} make of " if final else ""
        subject = f"the last hidden state is not {made}the last layer's"
        if expected.shape != output.shape:
            self._comparisons.depart("layers", f"{subject}: {ADVICE}")
            return
        norms = same_norms(expected, output)
        rounding = 4 * roundoff(output.dtype) * norms.size
        self._comparisons.compare("layers", subject, ADVICE, *norms._replace(tolerance=rounding))

    def _check_input(self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._called != index:
            return
        self._called += 1
        states: Tensor = args[0] if args else kwargs["hidden_states"]
        if self._states is not None:
            subject = f"{self._names[layer]} does not get the output of the layer before it"
            with self._comparisons.surviving(["layers"], self._names[layer]):
                self._comparisons.compare("layers", subject, ADVICE, *same_norms(self._states, states))

    def _keep_output(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._states = output[0] if isinstance(output, (tuple, list)) else output
