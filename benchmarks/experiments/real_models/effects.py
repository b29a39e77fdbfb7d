"""The effect of deactivating each language's set on every language, as tables."""

from __future__ import annotations

from benchmarks.experiments.real_models.inputs import Inputs
from benchmarks.experiments.real_models.part import Tables, rows_of
from benchmarks.experiments.real_selection import changes
from pymultiling import NeuronSet
from pymultiling.results.tables import compare_own_effects

ABOUT_EFFECTS = (
    "Effects are increases of the log-perplexity of held-out texts, in nats a token: of the set's language (own), the "
    "mean of the other languages (others), and of the language by as many random neurons of each site and layer "
    "(random, with the least and the most of the draws)."
)


def effect_tables(inputs: Inputs, sets: dict[str, NeuronSet]) -> Tables:
    """Returns the own effects of the sets, and the matrix of the effects of each set on each language.

    Args:
        inputs: the model and the texts.
        sets: {language: set}. An empty set is not deactivated.
    """
    deactivated = {language: neurons for language, neurons in sets.items() if len(neurons)}
    change = changes(inputs.model, inputs.tokenizer, deactivated, inputs.ablated, inputs.sample.draws)
    own = compare_own_effects(change).drop(index="mean").reindex(list(sets))
    own.insert(0, "neurons", [len(neurons) for neurons in sets.values()])
    return {
        "Own effects": rows_of(own, "language"),
        "Effect of each set on each language": rows_of(change.loc[list(deactivated)], "set"),
    }
