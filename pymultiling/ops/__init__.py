"""The operators: they take tensors and know nothing of Hugging Face.

Each is a torch custom operator (torch.ops.pymultiling.*) behind a documented function with a `backend` argument:
"auto" takes the fastest that can run the tensors: "triton", the kernels for GPUs, or "cpp", those for the CPU, and where
neither can, "torch", the plain PyTorch reference.
"""

from pymultiling.ops.active_count import active_count
from pymultiling.ops.column_energy import column_energy
from pymultiling.ops.dispatch import unavailable
from pymultiling.ops.gated_ffn import GatedFFN, gated_ffn
from pymultiling.ops.mask_neurons import mask_neurons
from pymultiling.ops.nearest_neighbors import nearest_neighbors
from pymultiling.ops.qk_estimate import QKEstimate
from pymultiling.ops.qk_importance import qk_importance
from pymultiling.ops.value_energy import value_energy, value_gram

__all__ = [
    "GatedFFN",
    "QKEstimate",
    "active_count",
    "column_energy",
    "gated_ffn",
    "mask_neurons",
    "nearest_neighbors",
    "qk_importance",
    "unavailable",
    "value_energy",
    "value_gram",
]
