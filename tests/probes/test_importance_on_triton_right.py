"""pml.importance with the Triton kernels, for documents that are padded on the right. float64 has no kernels.

Documents with padding on the left are in test_importance_on_triton_left.py, so that two workers share the models.
"""

import pytest

from tests.probes.test_importance import test_float32_importance_is_float64_brute_force as compare
from tests.support.tiny_models import MODELS
from tests.support.triton_on_cpu import MARKS, triton_on_the_cpu

__all__ = ["triton_on_the_cpu"]
pytestmark = MARKS


@pytest.mark.parametrize("name", MODELS)
def test_float32_importance_is_float64_brute_force(name):
    compare(name, "right")
