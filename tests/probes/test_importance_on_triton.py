"""pml.importance where "auto" takes the Triton kernels on the CPU, as on a GPU. They run in Triton's interpreter.

The tests are those of the other modules whose models are in float32; float64 has no kernels.
"""

from collections import Counter

import pytest

import pymultiling as pml
from pymultiling import triton_kernels
from pymultiling.ops import backends, dispatch
from tests.probes.test_fast_importance import (
    test_estimates_include_the_biases_of_attention_scores,
    test_estimates_of_short_documents_are_exact,
)
from tests.probes.test_importance import test_float32_importance_is_float64_brute_force
from tests.probes.test_importance_limits import test_a_small_or_dominating_neuron_under_a_norm_is_exact_in_float32
from tests.support.tiny_models import tiny_batch, tiny_model

if (reason := backends.load_triton()) is not None:
    pytest.skip(reason, allow_module_level=True)

from triton.runtime.interpreter import GridExecutor

__all__ = [
    "test_a_small_or_dominating_neuron_under_a_norm_is_exact_in_float32",
    "test_estimates_include_the_biases_of_attention_scores",
    "test_estimates_of_short_documents_are_exact",
    "test_float32_importance_is_float64_brute_force",
]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not triton_kernels.interpreted(), reason="on a GPU the other modules run the Triton kernels"),
    pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning"),  # from NumPy in Triton's interpreter
]


@pytest.fixture(autouse=True)
def triton_on_the_cpu(monkeypatch):
    """Makes "auto" take the Triton kernels on the CPU."""
    monkeypatch.setitem(dispatch.FASTEST, "cpu", "triton")


@pytest.mark.parametrize("qk, kernel", [("exact", "qk_importance"), ("fast", "qk_estimate")])
def test_auto_takes_the_triton_kernels_of_all_sites(qk, kernel, monkeypatch):
    """The kernels that one call of pml.importance launches, counted in the interpreter."""
    launched = Counter()
    launch = GridExecutor.__call__

    def count(self, *arguments, **options):
        launched[self.fn.__module__.rpartition(".")[2]] += 1
        return launch(self, *arguments, **options)

    monkeypatch.setattr(GridExecutor, "__call__", count)
    pml.importance(tiny_model("llama"), **tiny_batch(), qk=qk, fused=True)
    assert set(launched) == {"gated_ffn", "columns", "value_energy", kernel}
