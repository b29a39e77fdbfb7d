"""The tensor operators of pymultiling. They know nothing of Hugging Face models.

Each operator is a documented function with a `backend` argument, behind which stands a torch custom operator
(torch.ops.pymultiling.*). "auto" selects the fastest backend that can run the given tensors: "triton" (kernels for
GPUs) or "cpp" (kernels for the CPU), and where neither can run, "torch" (the plain PyTorch reference). `registry.py`
lists the operators.
"""

from pymultiling.mathematics.documents import Documents, group_tokens
from pymultiling.ops.active_count import active_count
from pymultiling.ops.backends import unavailable
from pymultiling.ops.centred_importance import centred_importance
from pymultiling.ops.column_energy import column_energy
from pymultiling.ops.gated_ffn import GatedFFN, gated_ffn
from pymultiling.ops.mask_neurons import mask_neurons
from pymultiling.ops.nearest_neighbors import nearest_neighbors
from pymultiling.ops.normed_energy import NormedEnergy, normed_energy
from pymultiling.ops.normed_value_energy import normed_value_energy
from pymultiling.ops.qk_importance import QKEstimate, qk_importance
from pymultiling.ops.value_energy import value_energy, value_gram
from pymultiling.ops.whole_norm_importance import whole_norm_importance

__all__ = [
    # Neurons of the FFN, and inputs of any linear map
    "GatedFFN",
    "NormedEnergy",
    "active_count",
    "column_energy",
    "gated_ffn",
    "normed_energy",
    # Value neurons
    "normed_value_energy",
    "value_energy",
    "value_gram",
    # Query and key neurons
    "QKEstimate",
    "centred_importance",
    "qk_importance",
    "whole_norm_importance",
    # Neurons switched off
    "mask_neurons",
    # Points
    "nearest_neighbors",
    # Tokens of each document
    "Documents",
    "group_tokens",
    # Backends
    "unavailable",
]
