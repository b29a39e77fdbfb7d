"""Compares the importance of a few neurons with its definition: they are set to zero, and their sublayers run again.

The check uses neither the formulas that it checks nor the inputs of attention scores that a probe captures. It reads
attention probabilities off the attention's output: with values of (1, 0, 0, ...) for the first token, (0, 1, 0, ...)
for the second, and so on, the output is the probabilities. This works with any implementation of the attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from pymultiling.errors import UnsupportedModel
from pymultiling.models.activations import activation_function
from pymultiling.models.adapters import MERGE
from pymultiling.models.decoder import AttentionLayer, Decoder, Layer
from pymultiling.models.experts import Experts, attach_change
from pymultiling.models.linear import Projection, bias_of, is_plain_linear, weight_of
from pymultiling.models.modes import evaluation_mode
from pymultiling.models.pretrained import pretrained, tensor_attribute
from pymultiling.models.routing import Routed
from pymultiling.neurons.sites import SITES
from pymultiling.probes.hooks import Hooks, OutputHook
from pymultiling.probes.importance import ImportanceProbe

TOKENS = 8  # length of the document
NEURONS = 4  # how many neurons of a site are checked in a layer: the most important one, and three evenly spaced ones
# A difference is divided by the neuron's importance, or by this fraction of the layer's largest one if that is larger.
FLOOR = 1e-3


@dataclass(frozen=True, eq=False)
class _Call:
    """The arguments of a module's forward."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@torch.no_grad()
def spot_check(model: nn.Module, seed: int = 0) -> dict[str, float]:
    r"""Measures how far importance is from its definition for a few neurons, in a random document.

        || T \ N (h) - T(h) ||^2,    T is the sublayer; for "q" and "k" the attention probabilities

    The first and the last layer are checked. Weights are set to zero in place, one neuron at a time, and restored bit
    for bit. For FFNs it also checks that they compute down(act(gate) up) with the activation of the family.

    Source: arXiv 2402.18815, eq. 1 and 9-11.

    Args:
        model: a Hugging Face decoder of a supported family, in float32 or float64.
        seed: the seed of the random document.

    Returns:
        {site: largest relative difference}, for the sites that some layer has. In float32 it is about 1e-5 where
        the family is right.

    Raises:
        UnsupportedModel: the neurons are not where the family has them, or are quantised or inside adapters of PEFT.
    """
    decoder = Decoder(model)
    decoder.require_weights()
    if not all(is_plain_linear(module) for layer in decoder.layers for module in _linear_modules(layer)):
        raise UnsupportedModel(
            "weights are set to zero for this check, and those of adapters and of quantised modules are not stored as "
            f"such: load floating-point weights, or {MERGE}"
        )
    embeddings = tensor_attribute(pretrained(model).get_input_embeddings(), "weight")
    generator = torch.Generator().manual_seed(seed)
    value_size = min(layer.value_size for layer in decoder.attention_layers.values())
    tokens = torch.randint(len(embeddings), (1, min(TOKENS, value_size)), generator=generator)
    tokens = tokens.to(embeddings.device)
    with ImportanceProbe(model, verify=False) as probe:
        importance = probe.measure(tokens)
    measured = {site: layers for site in SITES if (layers := decoder.layers_of(site))}
    differences: dict[str, float] = dict.fromkeys(measured, 0.0)
    with evaluation_mode(model):
        ends = {site: {layers[0], layers[-1]} for site, layers in measured.items()}
        for index in set.union(*ends.values()):
            layer = decoder.layers[index]
            calls, product_error = _record_calls(decoder, layer, tokens)
            differences["ffn"] = max(differences["ffn"], product_error)
            for site in (site for site in ends if index in ends[site]):
                run = _sublayer_runner(decoder, layer, site, calls)
                own = importance[site][0, index, : layer.width(site)]
                difference = _largest_difference(layer, site, own, run)
                differences[site] = max(differences[site], difference)
    return differences


def _linear_modules(layer: Layer) -> list[nn.Module]:
    """Returns the linear modules whose parameters are set to zero."""
    dense = layer.dense
    projections = [] if dense is None else [dense.gate, dense.up]
    modules = [] if dense is None else [dense.down]
    if isinstance(layer, AttentionLayer):
        projections += [projection for _, projection, _ in layer.projections()]
        modules.append(layer.o)
    return [*modules, *(projection.module for projection in projections if projection is not None)]


def _largest_difference(layer: Layer, site: str, importance: Tensor, run: Callable[[], Tensor]) -> float:
    """Returns the largest relative difference of a few neurons of a site.

    importance: (neurons,). run: runs the sublayer, see `_sublayer_runner`.
    """
    evenly_spaced = torch.linspace(0, len(importance) - 1, NEURONS - 1).long().tolist()
    floor = FLOOR * importance.max().clamp(min=1e-30)
    before, largest = run(), 0.0
    for n in {int(importance.argmax()), *evenly_spaced}:
        with zeroed(_neuron_parameters(layer, site, n)):
            truth = (run() - before).square().sum()
        difference = ((importance[n] - truth).abs() / torch.maximum(truth, floor)).item()
        largest = max(largest, float("inf") if math.isnan(difference) else difference)
    return largest


def _record_calls(decoder: Decoder, layer: Layer, tokens: Tensor) -> tuple[dict[nn.Module, _Call], float]:
    """Runs the model.

    Returns:
        The arguments of the layer's attention and FFN, and the relative difference between the down projection's input
        and the product act(gate) up.
    """
    calls: dict[nn.Module, _Call] = {}
    parts: dict[str, Tensor] = {}

    def record_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[module] = _Call(args, kwargs)

    def record_projection(name: str, projection: Projection) -> OutputHook:
        def record(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            parts[name] = projection.select(output)

        return record

    def record_hidden(_: nn.Module, args: tuple[Any, ...]) -> None:
        parts["hidden"] = args[0]

    def record_routed(routed: Routed) -> None:
        parts.update(gate=routed.gate, up=routed.up, hidden=routed.hidden)

    with Hooks() as hooks:
        if isinstance(layer, AttentionLayer):
            hooks.before_with_keywords(layer.attention, record_call)
        hooks.before_with_keywords(layer.ffn, record_call)
        if layer.shared is not None and layer.shared.module is not None:
            hooks.before_with_keywords(layer.shared.module, record_call)
        ffn = layer.ffn_parts
        if isinstance(ffn, Experts):
            attach_change(hooks, ffn, record_routed)
        else:
            hooks.after(ffn.gate.module, record_projection("gate", ffn.gate))
            if ffn.up is not None:
                hooks.after(ffn.up.module, record_projection("up", ffn.up))
            hooks.before(ffn.down, record_hidden)
        decoder.forward(tokens, torch.ones_like(tokens))
    hidden = parts["hidden"]
    if isinstance(ffn, Experts):
        product = ffn.hidden(parts["gate"], parts["up"])
    else:
        product = activation_function(decoder, layer)(parts["gate"]) * parts.get("up", 1)
    return calls, ((hidden - product).abs().max() / hidden.abs().max().clamp(min=1e-30)).item()


def _sublayer_runner(decoder: Decoder, layer: Layer, site: str, calls: dict[nn.Module, _Call]) -> Callable[[], Tensor]:
    """Returns a function that runs the sublayer of a site again.

    It returns the tensor whose squared change is the importance.
    """
    if site == "ffn":
        return _normed(_ffn_runner(decoder, layer, calls), None if layer.returns_normed else layer.ffn_norm)
    assert isinstance(layer, AttentionLayer), "other layers have FFN neurons only"
    if site in ("q", "k"):
        return _probability_runner(decoder, layer, calls)
    run = _runner(layer.attention, calls)
    returns_sum = layer.sum_norms is not None or bool(layer.sums)
    return _normed(_output_of(layer.o, run) if returns_sum else run, layer.attention_norm)


def _runner(module: nn.Module, calls: dict[nn.Module, _Call]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        output: Tensor | tuple[Tensor, ...] = module(*calls[module].args, **calls[module].kwargs)
        return output[0] if isinstance(output, (tuple, list)) else output

    return run


def _normed(run: Callable[[], Tensor], norm: nn.Module | None) -> Callable[[], Tensor]:
    return run if norm is None else lambda: cast("Tensor", norm(run()))


def _ffn_runner(decoder: Decoder, layer: Layer, calls: dict[nn.Module, _Call]) -> Callable[[], Tensor]:
    run = _runner(layer.ffn, calls)
    if layer.shared is not None and layer.shared.module is not None:
        run_shared = _runner(layer.shared.module, calls)
        return lambda: run() + run_shared()
    ffn = layer.ffn_parts
    # With family.ffn == "", the layer itself takes the place of the FFN, and `run` would return the layer's output.
    return _output_of(ffn.module if isinstance(ffn, Experts) else ffn.down, run) if decoder.family.ffn == "" else run


def _output_of(module: nn.Module, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Returns a function that calls `run` and returns what the module returned in it."""

    def run_module() -> Tensor:
        outputs: list[Tensor] = []
        with Hooks() as hooks:
            hooks.after(module, lambda _, args, output: outputs.append(output))
            run()
        return outputs[0]

    return run_module


def _probability_runner(decoder: Decoder, layer: AttentionLayer, calls: dict[nn.Module, _Call]) -> Callable[[], Tensor]:
    """Returns a function that runs the attention with values of 0 and `size`, and with open gates.

    The output / size is the attention probabilities, times the factor of the values if there is one.
    """
    run = _runner(layer.attention, calls)
    size = decoder.family.clip or 1.0  # if the family clips values, the largest that it keeps

    def one_hot(length: int, head_size: int, like: Tensor) -> Tensor:
        return size * torch.eye(length, head_size).to(like)

    def replace_values(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        assert layer.v is not None, "the hook is added where there is a value projection"
        rows = layer.v.row_indices().to(output.device)
        values = one_hot(output.shape[-2], layer.value_size, output).repeat(1, layer.kv_heads)
        return output.index_copy(-1, rows, values.expand(*output.shape[:-1], -1))

    def replace_normed(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Replaces (1, l, K, d), the values behind their norm."""
        return one_hot(output.shape[1], output.shape[3], output)[None, :, None].expand_as(output)

    def replace_shared(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Replaces the values (1, K, l, d) that come with the keys of an earlier layer."""
        assert decoder.family.shared_keys is not None, "the hook is added where a layer takes those of another one"
        keyword = decoder.family.shared_keys[1]
        shared = {
            kind: (key, one_hot(value.shape[2], value.shape[3], value).expand_as(value))
            for kind, (key, value) in kwargs[keyword].items()
        }
        return args, {**kwargs, keyword: shared}

    def open_gates(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        assert layer.output_gate is not None, "the hook is added where there is a gate"
        # Its sigmoid, or its softplus, is 1.
        open_gate = torch.inf if decoder.family.gate_function == "sigmoid" else math.log(math.expm1(1))
        return output.index_fill(-1, layer.output_gate.row_indices().to(output.device), open_gate)

    def run_probabilities() -> Tensor:
        outputs: list[Tensor] = []
        with Hooks() as hooks:
            if layer.k is None:
                hooks.before_with_keywords(layer.attention, replace_shared)
            elif layer.v_norm is not None:
                hooks.after(layer.v_norm, replace_normed)
            elif layer.v is not None:
                hooks.after(layer.v.module, replace_values)
            if layer.output_gate is not None:
                hooks.after(layer.output_gate.module, open_gates)
            hooks.before(layer.o, lambda _, args: outputs.append(args[0] / (size * decoder.family.value_scale)))
            run()
        return outputs[0]

    return run_probabilities


@contextmanager
def zeroed(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Inside the block, parameters, or views of parts of them, are zero."""
    values = [parameter.clone() for parameter in parameters]
    for parameter in parameters:
        parameter.zero_()
    try:
        yield
    finally:
        for parameter, value in zip(parameters, values):
            parameter.copy_(value)


def _neuron_parameters(layer: Layer, site: str, n: int) -> list[Tensor]:
    """Returns views of the parameters of neuron n: rows and biases of projections, and columns."""
    experts, dense = layer.experts, layer.dense
    if site == "ffn" and experts is not None and n < experts.width:
        return experts.neuron_parameters(n)
    if site == "ffn" and dense is not None:
        n -= layer.dense_members.start
        up = [] if dense.up is None else _row_parameters(dense.up, n)
        # A sparse gate takes its mean over all neurons, so that a row of it that is zero changes the others too.
        gate = [] if dense.gate_sparsity > 0 else _row_parameters(dense.gate, n)
        return [*gate, *up, weight_of(dense.down)[:, n]]
    assert isinstance(layer, AttentionLayer), "other layers have FFN neurons only"
    if site == "o":
        return [weight_of(layer.o)[:, n]]
    return next(
        _row_parameters(projection, n - members.start)
        for name, projection, members in layer.projections()
        if name == site and members.start <= n < members.stop
    )


def _row_parameters(projection: Projection, n: int) -> list[Tensor]:
    """Returns views of the weight's row and of the bias that belong to output n of a projection."""
    row, bias = int(projection.row_indices()[n]), bias_of(projection.module)
    return [weight_of(projection.module)[row], *([] if bias is None else [bias[row]])]
