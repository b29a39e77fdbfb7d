"""Each language's neurons, and what happens without them."""

from __future__ import annotations

from benchmarks.experiments.real_models.effects import ABOUT_EFFECTS, effect_tables
from benchmarks.experiments.real_models.inputs import Inputs
from benchmarks.experiments.real_models.part import Part, Tables


def measure(inputs: Inputs) -> Tables:
    """Returns the tables of `effect_tables` for the neurons that are selected for one language only."""
    return effect_tables(inputs, inputs.detection.specific())


PART = Part(
    "What happens without a language's neurons?",
    "Neurons of all five sites that the command `detect` selects by default for one language only. " + ABOUT_EFFECTS,
    measure,
)
