"""LAPE: neurons that few languages activate, and what happens without them."""

from __future__ import annotations

import pymultiling as pml
from benchmarks.experiments.real_models.effects import ABOUT_EFFECTS, effect_tables
from benchmarks.experiments.real_models.inputs import Inputs
from benchmarks.experiments.real_models.part import Part, Tables


def measure(inputs: Inputs) -> Tables:
    """Returns the tables of `effect_tables` for the sets of `lape`."""
    return effect_tables(inputs, pml.lape(inputs.activations))


PART = Part(
    "What happens without the neurons of LAPE?",
    "FFN neurons that `lape` selects with its defaults; a neuron may belong to several languages. " + ABOUT_EFFECTS,
    measure,
)
