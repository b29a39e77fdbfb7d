"""Fixtures of the tests of the operators, and the tests of Triton kernels that `make test` leaves out."""

import pytest
import torch

from pymultiling import triton_kernels
from pymultiling.ops import unavailable

INSTRUCTION_SETS = ("portable", "avx2", "avx512")


# The only tests of the slowest modules that `make test` runs with backend "triton". `make test-long` runs the others.
QUICK = {
    "test_qk_importance.py": (
        "test_each_document_may_have_its_own_tables",
        "test_rows_of_many_keys_equal_the_reference",
    ),
    "test_qk_estimate.py": (
        "test_padding_and_position_change_nothing",
        "test_long_rows_equal_the_reference_up_to_rounding",
    ),
    "test_nearest_neighbors.py": (
        "test_equals_brute_force_up_to_rounding",
        "test_duplicates_are_neighbours_lowest_index_first",
        "test_small_clusters_are_the_neighbours_of_their_points",
    ),
}


def pytest_collection_modifyitems(items):
    """Marks as long, without a GPU, the tests of the modules in QUICK that run a Triton kernel and are not quick."""
    if torch.cuda.is_available():  # the kernels are compiled, not interpreted
        return
    for item in items:
        quick = QUICK.get(item.path.name)
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if quick and item.originalname not in quick and parameters.get("backend") == "triton":
            item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True, scope="module")
def fresh_memory_is_nan():
    """Makes torch.empty return NaN (for integers the largest value), so that a value that is never written shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(
    scope="module", params=["torch", *(f"cpp {instruction_set}" for instruction_set in INSTRUCTION_SETS), "triton"]
)
def backend(request):
    """Yields the name of every backend that this machine can run, "cpp" once for each instruction set of this machine.

    Triton kernels run on the GPU, where tests then create their tensors, or in Triton's interpreter without a GPU.
    """
    name, _, level = request.param.partition(" ")
    reason = unavailable(name)
    if reason is not None:
        pytest.skip(reason)
    if level:
        instruction_set = torch.ops.pymultiling_cpp.instruction_set
        best = instruction_set("")
        try:
            instruction_set(level)
        except ValueError as error:
            pytest.skip(str(error))
        yield name
        instruction_set(best)
    elif name == "triton" and not triton_kernels.interpreted():
        torch.set_default_device("cuda")
        yield name
        torch.set_default_device(None)
    else:
        yield name


@pytest.fixture
def two_threads():
    """Makes PyTorch use two threads during the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
