"""For tests in which "auto" takes the Triton kernels on the CPU, as on a GPU. They run in Triton's interpreter.

A test module imports the fixture and sets `pytestmark = MARKS`. Where Triton is missing, this import skips the module.
"""

import pytest

from pymultiling import triton_kernels
from pymultiling.ops import backends, dispatch

if (reason := backends.load_triton()) is not None:
    pytest.skip(reason, allow_module_level=True)

MARKS = [
    pytest.mark.long,
    pytest.mark.skipif(not triton_kernels.interpreted(), reason="on a GPU the other modules run the Triton kernels"),
    pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning"),  # from NumPy in Triton's interpreter
]


@pytest.fixture(autouse=True)
def triton_on_the_cpu(monkeypatch):
    """Makes "auto" take the Triton kernels on the CPU."""
    monkeypatch.setitem(dispatch.FASTEST, "cpu", "triton")
