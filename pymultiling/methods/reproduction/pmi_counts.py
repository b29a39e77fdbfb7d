"""Which FFN neurons are active at the last token of each kind of prompt, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pymultiling.methods.activations import count_activations
from pymultiling.methods.reproduction.counting_rounds import COUNTING
from pymultiling.methods.reproduction.plan import Setup, TimeLimit
from pymultiling.methods.reproduction.rounds import measure_rounds
from pymultiling.neurons.activation_statistics import ActivationStatistics
from pymultiling.probes.activation_counts import ActivationProbe

ROUND = 8  # items that are counted with all kinds of prompts before the counts can be written


def count_prompts(
    setup: Setup, prompts: Mapping[str, Sequence[list[int]]], limit: TimeLimit
) -> tuple[int, dict[str, ActivationStatistics]]:
    """Counts active neurons at the last token of prompts, and how many of them the direct prompt of the item shares.

    Args:
        setup: the model, and where the counts are kept.
        prompts: {kind of prompt: tokens of each item's prompt}; the first kind is the one to compare with.
        limit: the time that it may take; `ROUND` items are counted in any case.

    Returns:
        The number of rounds, and {kind of prompt: counts}.

    Raises:
        UnsupportedModel: as `activations`.
        NonFiniteActivations: as `activations`.
    """
    done = setup.measured.statistics(prompts, COUNTING)
    items = min(map(len, prompts.values()))
    rounds = -(-items // ROUND)
    if done[0] == rounds:
        return done
    probe = ActivationProbe(setup.model)

    def measure(number: int, _: bool) -> dict[str, ActivationStatistics]:
        start, stop = number * ROUND, min((number + 1) * ROUND, items)
        totals: dict[str, ActivationStatistics] = {}
        values: dict[str, list[Tensor]] = {name: [] for name in prompts}
        for item in range(start, stop):
            compared: Tensor | None = None
            for name, encoded in prompts.items():
                documents = [(encoded[item], 0)]
                counts = count_activations(probe, documents, "last", setup.batch_tokens, name, False, "prompts")
                totals[name] = totals[name] + counts if name in totals else counts
                active = counts.active > 0
                compared = active if compared is None else compared
                values[name].append(torch.cat([active.sum(1), (active & compared).sum(1)]).double())
        for name, of_items in values.items():
            if setup.measured.count(value_name(name)) == start:  # else a run that was killed has added them
                setup.measured.add(value_name(name), torch.stack(of_items))
        return totals

    return measure_rounds(setup, COUNTING, done, rounds, limit, measure)


def value_name(prompt: str) -> str:
    """Returns the name in `Measured` of the values of a kind of prompt.

    They are (items, 2 layers): in each layer the number of active neurons, and of those that the item's direct prompt
    has too.
    """
    return f"active.{prompt}"
