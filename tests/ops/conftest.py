import pytest
import torch

from pymultiling import triton_kernels
from pymultiling.ops import unavailable

LEVELS = ("portable", "avx2", "avx512")


# Of the kernels that take Triton's interpreter longest, what `make test` runs; `make test-long` runs all the rest.
QUICK = {
    "test_qk_importance.py": ("test_rotation_tables_of_each_document", "test_rows_of_many_keys"),
    "test_qk_estimate.py": ("test_padding_changes_nothing", "test_long_rows"),
    "test_nearest_neighbors.py": (
        "test_brute_force",
        "test_duplicates_are_neighbours_lowest_index_first",
        "test_clusters",
    ),
}


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():  # they are compiled there
        return
    for item in items:
        quick = QUICK.get(item.path.name)
        if quick and item.originalname not in quick and getattr(item, "callspec", None):
            if item.callspec.params.get("backend") == "triton":
                item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True, scope="module")
def fresh_memory_is_nan():
    """torch.empty gives NaN, and for integers their largest value: a cell that nobody writes shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module", params=["torch", *(f"cpp {level}" for level in LEVELS), "triton"])
def backend(request):
    """Every backend in turn, the C++ kernels with every instruction set that this machine has.

    The Triton kernels run on the GPU, where tests then make their tensors, or without one in Triton's interpreter.
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
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
