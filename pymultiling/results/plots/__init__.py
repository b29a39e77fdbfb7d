"""Plots of results. Each function returns a Figure, which notebooks show, and `save` writes it to a file."""

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
