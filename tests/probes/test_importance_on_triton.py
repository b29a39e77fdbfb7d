"""Which Triton kernels pml.importance launches, and tests of other modules in float32 with these kernels.

test_importance_on_triton_left.py and test_importance_on_triton_right.py compare every model with brute force.
"""

from collections import Counter

import pytest

import pymultiling as pml
from tests.probes.test_fast_importance import (
    test_estimates_include_the_biases_of_attention_scores,
    test_estimates_of_short_documents_are_exact,
)
from tests.probes.test_importance_limits import test_a_small_or_dominating_neuron_under_a_norm_is_exact_in_float32
from tests.support.tiny_models import tiny_batch, tiny_model
from tests.support.triton_on_cpu import MARKS, triton_on_the_cpu

__all__ = [
    "test_a_small_or_dominating_neuron_under_a_norm_is_exact_in_float32",
    "test_estimates_include_the_biases_of_attention_scores",
    "test_estimates_of_short_documents_are_exact",
    "triton_on_the_cpu",
]
pytestmark = MARKS


@pytest.mark.parametrize("qk, kernel", [("exact", "qk_importance"), ("fast", "qk_estimate")])
def test_auto_takes_the_triton_kernels_of_all_sites(qk, kernel, monkeypatch):
    """The kernels that one call of pml.importance launches, counted in the interpreter."""
    from triton.runtime.interpreter import GridExecutor

    launched = Counter()
    launch = GridExecutor.__call__

    def count(self, *arguments, **options):
        launched[self.fn.__module__.rpartition(".")[2]] += 1
        return launch(self, *arguments, **options)

    monkeypatch.setattr(GridExecutor, "__call__", count)
    pml.importance(tiny_model("llama"), **tiny_batch(), qk=qk, fused=True, verify=False)
    assert set(launched) == {"gated_ffn", "columns", "value_energy", kernel}
