"""Importance of a few neurons compared with its definition: they are set to zero, and their sublayers run again.

The formulas that are checked are not used, nor what a model says of its attention: probabilities are read off its output,
with values of (1, 0, 0, ...) for the first token, (0, 1, 0, ...) for the second, and so on, through any implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from pymultiling.models.decoder import Decoder, Layer, evaluation_mode
from pymultiling.models.experts import Routed, changing
from pymultiling.models.linear import Projection, weight_of
from pymultiling.neurons.sites import SITES
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.importance import ImportanceProbe

TOKENS = 8  # of the document
NEURONS = 4  # of a site in a layer: the most important one, and others at even distances
FLOOR = 1e-3  # of the largest importance of a layer: below it differences are measured against the floor


@torch.no_grad()
def spot_check(model: nn.Module, seed: int = 0) -> dict[str, float]:
    """How far importance is from its definition, in a random document: the first and the last layer, a few neurons a site.

        || T \\ N (h) - T(h) ||^2, for "q" and "k" of the attention probabilities        (arXiv 2402.18815, eq. 1 and 9-11)

    Weights are set to zero in place, one neuron at a time, and put back bit for bit. Of FFNs also that they are
    down(act(gate) up), with the activation that is looked for.

    Args:
        model: a Hugging Face decoder of a supported family, in float32 or float64.
        seed: of the document.

    Returns:
        {site: largest relative difference}, some 1e-5 in float32 where all is well.

    Raises:
        UnsupportedModel: the model's neurons are not where its family has them.
    """
    decoder = Decoder(model)
    decoder.require_weights()
    embeddings, generator = model.get_input_embeddings().weight, torch.Generator().manual_seed(seed)
    tokens = torch.randint(len(embeddings), (1, min(TOKENS, decoder.layers[0].head_size)), generator=generator)
    tokens = tokens.to(embeddings.device)
    with ImportanceProbe(model) as probe:
        found = probe.measure(tokens)
    differences = dict.fromkeys(SITES, 0.0)
    with evaluation_mode(model):
        for index in {0, len(decoder.layers) - 1}:
            layer = decoder.layers[index]
            calls, product = _calls(decoder, layer, tokens)
            differences["ffn"] = max(differences["ffn"], product)
            for site in SITES:
                difference = _difference(layer, site, found[site][0, index], _sublayer(decoder, layer, site, calls))
                differences[site] = max(differences[site], difference)
    return differences


def _difference(layer: Layer, site: str, found: Tensor, run: Callable[[], Tensor]) -> float:
    """The largest of a few of a site's neurons."""
    even = torch.linspace(0, len(found) - 1, NEURONS - 1).long().tolist()
    floor = FLOOR * found.max().clamp(min=1e-30)
    before, largest = run(), 0.0
    for n in {int(found.argmax()), *even}:
        with _zeroed(layer, site, n):
            truth = (run() - before).square().sum()
        difference = ((found[n] - truth).abs() / torch.maximum(truth, floor)).item()
        largest = max(largest, difference if difference == difference else float("inf"))
    return largest


def _calls(decoder: Decoder, layer: Layer, tokens: Tensor) -> tuple[dict[nn.Module, SimpleNamespace], float]:
    """What a layer's attention and FFN were called with; and how far the down projection's input is from act(gate) up."""
    calls: dict[nn.Module, SimpleNamespace] = {}
    seen: dict[str, Tensor] = {}

    def see(name: str, projection: Projection) -> Callable:
        return lambda _, args, output: seen.update({name: projection.of(output)})

    def see_routed(routed: Routed) -> None:
        seen.update(gate=routed.gate, up=routed.up, hidden=routed.hidden)

    with ExitStack() as stack, Hooks() as hooks:
        for module in (layer.attention, layer.ffn):

            def catch(module, args, kwargs) -> None:
                calls[module] = SimpleNamespace(args=args, kwargs=kwargs)

            hooks.before(module, catch, with_kwargs=True)
        if layer.experts is not None:
            stack.enter_context(changing(layer.experts, see_routed))
        else:
            for name, projection in (("gate", layer.gate), ("up", layer.up)):
                if projection is not None:
                    hooks.after(projection.module, see(name, projection))
            hooks.before(layer.down, lambda _, args: seen.update(hidden=args[0]))
        decoder.forward(tokens, torch.ones_like(tokens))
    product, hidden = ACT2FN[decoder.activation](seen["gate"]) * seen.get("up", 1), seen["hidden"]
    return calls, ((hidden - product).abs().max() / hidden.abs().max().clamp(min=1e-30)).item()


def _sublayer(decoder: Decoder, layer: Layer, site: str, calls: dict) -> Callable[[], Tensor]:
    """Runs the sublayer of a site again, and gives what the site's importance is the change of."""
    module = layer.ffn if site == "ffn" else layer.attention
    norm = layer.ffn_norm if site == "ffn" else layer.attention_norm

    def run():
        output = module(*calls[module].args, **calls[module].kwargs)
        return output[0] if isinstance(output, tuple) else output

    def of_the_layer() -> Tensor:  # the FFN is no module of its own
        caught = []
        with Hooks() as hooks:
            hooks.after(layer.down or layer.experts.module, lambda _, args, output: caught.append(output))
            run()
        return caught[0]

    def probabilities() -> Tensor:
        size, caught = decoder.family.clip or 1.0, []  # of the ones

        def replace(_, args, output: Tensor) -> Tensor:
            ones = size * torch.eye(output.shape[1], layer.head_size).to(output)
            return output.index_copy(-1, layer.v.row_indices().to(output.device), ones.repeat(1, layer.kv_heads)[None])

        with Hooks() as hooks:
            hooks.after(layer.v.module, replace)
            hooks.before(layer.o, lambda _, args: caught.append(args[0] / size))
            run()
        return caught[0]

    if site in ("q", "k"):
        return probabilities
    output = of_the_layer if site == "ffn" and decoder.family.ffn == "" else run
    return output if norm is None else lambda: norm(output())


@contextmanager
def _zeroed(layer: Layer, site: str, n: int) -> Iterator[None]:
    """Inside, the parameters of neuron n are zero."""
    rows = {"ffn": (layer.gate, layer.up), "q": (layer.q,), "k": (layer.k,), "v": (layer.v,), "o": ()}[site]
    places = layer.experts.parameters_of(n) if site == "ffn" and layer.experts is not None else []
    for projection in rows:
        if projection is not None:
            row, bias = int(projection.row_indices()[n]), projection.module.bias
            places += [weight_of(projection.module)[row]] + ([] if bias is None else [bias[row]])
    columns = {"ffn": layer.down, "o": layer.o}.get(site)
    places += [] if columns is None else [weight_of(columns)[:, n]]
    kept = [place.clone() for place in places]
    for place in places:
        place.zero_()
    try:
        yield
    finally:
        for place, value in zip(places, kept):
            place.copy_(value)
