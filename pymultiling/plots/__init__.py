"""Plots of what the methods find. Figures are objects; `save` writes them."""

from pymultiling.plots.activity import activations, pmi
from pymultiling.plots.effects import ablation, mwork
from pymultiling.plots.sets import TITLES, neurons_by_layer, overlap
from pymultiling.plots.shared import save
from pymultiling.plots.spaces import ilo, lens
from pymultiling.plots.ternary import ternary, ternary_change

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
