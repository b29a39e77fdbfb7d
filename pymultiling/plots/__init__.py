"""Plots of what the methods find. Figures are objects; `save` writes them."""

from pymultiling.plots.effects import ablation, mwork
from pymultiling.plots.sets import TITLES, neurons_by_layer, overlap
from pymultiling.plots.shared import save

__all__ = ["TITLES", "ablation", "mwork", "neurons_by_layer", "overlap", "save"]
