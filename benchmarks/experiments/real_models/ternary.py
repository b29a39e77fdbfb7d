"""Ternary neurons: how many there are of each class, and what happens without them."""

from __future__ import annotations

import pymultiling as pml
from benchmarks.experiments.real_models.inputs import Inputs
from benchmarks.experiments.real_models.part import Part, Tables, rows_of
from pymultiling.methods.ternary import sets_by_kind
from pymultiling.results.tables import log_change, mean_of_draws


def measure(inputs: Inputs) -> Tables:
    """Returns the number of neurons by number of languages, and the effect of each class on each language."""
    result = pml.ternary(inputs.activations)
    kinds = {kind: neurons for kind, neurons in sets_by_kind(result).items() if len(neurons)}
    perplexities = pml.ablation_matrix(
        inputs.model, inputs.tokenizer, kinds, inputs.ablated, random_draws=inputs.sample.draws, progress=False
    )
    effects = mean_of_draws(log_change(perplexities))
    effects.insert(0, "neurons", [len(kinds[str(name).removeprefix("random as ")]) for name in effects.index])
    return {
        "Selected neurons by the number of their languages": [
            {"languages": number, "neurons": neurons} for number, neurons in enumerate(result.histogram)
        ],
        "Effect of each class on each language": rows_of(effects, "set"),
    }


PART = Part(
    "What happens without the ternary neurons?",
    "FFN neurons that `ternary` selects with its defaults: specific to one language, related to several, or general. "
    "Effects are increases of the log-perplexity of held-out texts, in nats a token. Random sets have as many neurons "
    "of each layer; their rows are means over the draws. A class without neurons has no row.",
    measure,
)
