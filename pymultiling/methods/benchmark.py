"""Times the forwards and the operators of a model on this machine."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from pymultiling.models.decoder import Decoder, model_device
from pymultiling.models.pretrained import pretrained
from pymultiling.neurons.sets import NeuronSet
from pymultiling.neurons.sites import SITES
from pymultiling.neurons.widths import are_neurons
from pymultiling.ops.recorded_calls import OperatorCall, RecordedCalls
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.importance import ImportanceProbe
from pymultiling.probes.masking import deactivate
from pymultiling.runtime.alternating import alternate, ratio
from pymultiling.runtime.schemas import Schema

PLAIN = "plain forward"
MASKED = 0.01  # fraction of the neurons that are off


class ForwardTime(Schema):
    """The time of a forward with a measurement.

    Attributes:
        name: what is measured.
        milliseconds: the median over the rounds.
        times_plain: the median over the rounds of the time divided by that of the plain forward in the same round.
    """

    name: str
    milliseconds: float
    times_plain: float


class OperatorTime(Schema):
    """The time of an operator.

    Attributes:
        name: the operator.
        shape: of its first tensor, in the largest call that the model makes.
        milliseconds: {backend: the median over the rounds}.
    """

    name: str
    shape: tuple[int, ...]
    milliseconds: dict[str, float]


class Benchmark(Schema):
    """The times of a model on a machine.

    Attributes:
        environment: versions, date and machine.
        model: name of the model.
        dtype: of its weights.
        length: tokens of the document.
        forwards: times of forwards of the model without its head; the plain one is first.
        operators: times of the operators.
    """

    environment: dict[str, str]
    model: str
    dtype: str
    length: int
    forwards: tuple[ForwardTime, ...]
    operators: tuple[OperatorTime, ...]


def time_forwards(model: nn.Module, length: int, rounds: int) -> tuple[ForwardTime, ...]:
    """Times the plain forward, and forwards in which neurons are measured or off, alternately.

    Args:
        model: a Hugging Face decoder of a supported family.
        length: tokens of the document.
        rounds: how often each is timed, after a warm-up.
    """
    seconds = alternate(_forwards(model, length), rounds, _clock(model))
    return tuple(
        ForwardTime(
            name=name,
            milliseconds=round(1e3 * statistics.median(times), 3),
            times_plain=round(ratio(seconds, name, PLAIN), 3),
        )
        for name, times in seconds.items()
    )


def time_operators(model: nn.Module, length: int, rounds: int) -> tuple[OperatorTime, ...]:
    """Times the largest call of each operator in the forwards of `time_forwards`, on every backend that can run it.

    The arguments are those of `time_forwards`.
    """
    calls = RecordedCalls()
    for name, run in _forwards(model, length).items():
        if name != PLAIN:
            with calls:
                run()
    return tuple(_time_operator(call, rounds, _clock(model)) for _, call in sorted(calls.largest.items()))


def _time_operator(call: OperatorCall, rounds: int, clock: Callable[[], float]) -> OperatorTime:
    runs: dict[str, Callable[[], object]] = {name: functools.partial(call.run, name) for name in call.backends()}
    with torch.no_grad():
        seconds = alternate(runs, rounds, clock)
    times = {backend: round(1e3 * statistics.median(values), 4) for backend, values in seconds.items()}
    return OperatorTime(name=call.name, shape=call.shape, milliseconds=times)


def _forwards(model: nn.Module, length: int) -> dict[str, Callable[[], object]]:
    """Returns {name: function that runs a forward}."""
    decoder = Decoder(model)
    generator = torch.Generator().manual_seed(0)
    words = pretrained(model).config.get_text_config().vocab_size
    tokens = torch.randint(words, (1, length), generator=generator)
    mask = torch.ones_like(tokens)
    widths = decoder.layer_widths()
    masks = {}
    for site, by_layer in widths.items():
        is_drawn = torch.rand(len(by_layer), max(by_layer), generator=generator) < MASKED
        masks[site] = is_drawn & are_neurons(by_layer, max(by_layer))
    off = NeuronSet(masks, widths)

    @torch.no_grad()
    def plain() -> object:
        return decoder.forward(tokens, mask)

    def count() -> object:
        return ActivationProbe(model).measure(tokens, mask, mask.bool())

    def importance(sites: tuple[str, ...], qk: Literal["exact", "fast"] = "exact") -> object:
        with ImportanceProbe(model, sites, qk=qk) as probe:
            return probe.measure(tokens)

    def masked() -> object:
        with deactivate(model, off):
            return plain()

    return {
        PLAIN: plain,
        "activation counts": count,
        "ffn, v and o": lambda: importance(("ffn", "v", "o")),
        "all sites": lambda: importance(SITES),
        "all sites, fast q and k": lambda: importance(SITES, "fast"),
        "1% of the neurons off": masked,
    }


def _clock(model: nn.Module) -> Callable[[], float]:
    """Returns a function that waits for the model's device and returns the seconds."""
    device = model_device(model)

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now
