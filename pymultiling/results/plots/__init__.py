"""Plots of what the methods find. Figures are objects; `save` writes them."""

from pymultiling.results.plots.activity import activations, pmi
from pymultiling.results.plots.effects import ablation, mwork
from pymultiling.results.plots.figures import save
from pymultiling.results.plots.sets import TITLES, neurons_by_layer, overlap
from pymultiling.results.plots.spaces import ilo, lens
from pymultiling.results.plots.ternary import ternary, ternary_change

__all__ = [
    "TITLES",
    "ablation",
    "activations",
    "ilo",
    "lens",
    "mwork",
    "neurons_by_layer",
    "overlap",
    "pmi",
    "save",
    "ternary",
    "ternary_change",
]
