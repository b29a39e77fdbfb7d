"""Fixtures of the tests of the operators, and the tests of Triton kernels that `make test` leaves out."""

from pathlib import Path

import pytest
import torch

from pymultiling.ops import checks, dispatch
from tests.support.backends import BACKENDS, running_on, selected_instruction_set

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
    "test_qk_limits.py": (
        "test_a_soft_cap_far_above_the_scores_is_none",
        "test_scores_that_float32_rounds_by_more_than_1_give_a_change_of_probabilities",
    ),
    "test_nearest_neighbors.py": (
        "test_equals_brute_force_up_to_rounding",
        "test_duplicates_are_neighbours_lowest_index_first",
        "test_small_clusters_are_the_neighbours_of_their_points",
    ),
}


SLOW_OPERATORS = ("qk_importance", "qk_estimate")  # a call takes the interpreter seconds


def is_slow(item) -> bool:
    """Returns whether a test of a Triton kernel takes long in the interpreter."""
    parameters = item.callspec.params
    if item.path.name in QUICK:
        return item.originalname not in QUICK[item.path.name]
    is_first = item.originalname == "test_results_are_as_declared_and_share_no_memory"
    return parameters.get("name") in SLOW_OPERATORS and not (is_first and parameters["layout"] == "contiguous")


def pytest_collection_modifyitems(items):
    """Marks as long, without a GPU, the tests of Triton kernels that take long in the interpreter."""
    if torch.cuda.is_available():  # the kernels are compiled, not interpreted
        return
    folder = Path(__file__).parent
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if item.path.parent == folder and parameters.get("backend") == "triton" and is_slow(item):
            item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True, scope="module")
def fresh_memory_is_nan():
    """Makes torch.empty return NaN (for integers the largest value), so that a value that is never written shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def unfilled_memory(fresh_memory_is_nan):
    """Leaves the memory of torch.empty as it is during the test. To fill it takes a kernel for each tensor on a GPU."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture
def unchecked_values(monkeypatch):
    """Lets indices out of range reach the kernels, as they do on a GPU, where their values are not checked."""
    monkeypatch.setattr(checks, "_require_indices", lambda *arguments: None)


@pytest.fixture(autouse=True)
def registered_operators(monkeypatch):
    """Makes every call of an operator pass the registered torch operator, whatever backend the call names.

    torch checks there that no result is a view of an argument or of another result. Calls outside these tests may go
    past the torch operator, but not under torch.compile and autograd.
    """
    monkeypatch.setattr(dispatch, "_call", dispatch.call_torch_operator)


INSTRUCTION_SET = selected_instruction_set()


@pytest.fixture(autouse=True)
def nothing_selected_before():
    """Fails if an earlier test has left a default device or another instruction set behind."""
    assert torch.get_default_device() == torch.device("cpu")
    assert selected_instruction_set() == INSTRUCTION_SET


@pytest.fixture(params=BACKENDS)
def backend(request, nothing_selected_before):
    """Yields the name of every backend that this machine can run, "cpp" once for each instruction set of this machine.

    Triton kernels run on the GPU, where the test then creates its tensors, or in Triton's interpreter without a GPU.
    """
    with running_on(request.param) as name:
        yield name


@pytest.fixture
def two_threads():
    """Makes PyTorch use two threads during the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
