"""A model in TransformerLens, which is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.whole_model.peers.formulas import GATE, HIDDEN, MIXED, Cached

HOOKS = {GATE: "mlp.hook_pre", HIDDEN: "mlp.hook_post", MIXED: "attn.hook_z"}


class Lens:
    """A model in TransformerLens's bridge, see `Peer`. Its forwards include the head, before which it cannot stop.

    Args:
        model: the model, whose modules the bridge changes.
        folder: the model's, from which the bridge reads the tokenizer.
        tokens: (1, length), the document.
    """

    def __init__(self, model: PreTrainedModel, folder: Path, tokens: Tensor):
        from transformer_lens import TransformerBridge

        self._layers, self._tokens = len(model.model.layers), tokens
        self._bridge = TransformerBridge.boot_transformers(
            str(folder), hf_model=model, device=str(tokens.device), dtype=model.dtype
        )

    def forward(self) -> object:
        return self._bridge(self._tokens)

    def cache(self, names: Iterable[str]) -> Cached:
        wanted = {name: [f"blocks.{layer}.{HOOKS[name]}" for layer in range(self._layers)] for name in names}
        hooks = [hook for of_name in wanted.values() for hook in of_name]
        _, cache = self._bridge.run_with_cache(self._tokens, names_filter=hooks)
        # hook_z has a dimension for the heads.
        return {name: [cache[hook].flatten(2) for hook in of_name] for name, of_name in wanted.items()}

    def without(self, layer: int, neuron: int) -> Tensor:
        states: list[Tensor] = []

        def zero(x: Tensor, hook: object) -> Tensor:
            x[..., neuron] = 0
            return x

        def keep(x: Tensor, hook: object) -> None:
            states.append(x)

        hooks = [(f"blocks.{layer}.{HOOKS[HIDDEN]}", zero), ("ln_final.hook_out", keep)]
        self._bridge.run_with_hooks(self._tokens, fwd_hooks=hooks)
        return states[0]
