"""Every operator as its equation in plain PyTorch: the oracle of the tests, and the backend that is always there.

Any floating dtype and any device. Sums are float32, or float64 for float64 input.
"""

from pymultiling.ops.reference.active_count import active_count
from pymultiling.ops.reference.column_energy import column_energy
from pymultiling.ops.reference.gated_ffn import ACTIVATIONS, gated_ffn
from pymultiling.ops.reference.mask_neurons import mask_neurons, mask_neurons_
from pymultiling.ops.reference.nearest_neighbors import nearest_neighbors
from pymultiling.ops.reference.normed_energy import normed_energy
from pymultiling.ops.reference.qk_estimate import qk_estimate
from pymultiling.ops.reference.qk_importance import qk_importance
from pymultiling.ops.reference.value_energy import value_energy, value_gram

__all__ = [
    "ACTIVATIONS",
    "active_count",
    "column_energy",
    "gated_ffn",
    "mask_neurons",
    "mask_neurons_",
    "nearest_neighbors",
    "normed_energy",
    "qk_estimate",
    "qk_importance",
    "value_energy",
    "value_gram",
]
