import pytest
import torch

from pymultiling.ops import unavailable

LEVELS = ("portable", "avx2", "avx512")


@pytest.fixture(autouse=True, scope="module")
def fresh_memory_is_nan():
    """torch.empty gives NaN, and for integers their largest value: a cell that nobody writes shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module", params=["torch", *(f"cpp {level}" for level in LEVELS)])
def backend(request):
    """Every backend in turn, the C++ kernels with every instruction set that this machine has."""
    if request.param == "torch":
        yield "torch"
        return
    reason = unavailable("cpp")
    if reason is not None:
        pytest.skip(reason)
    instruction_set = torch.ops.pymultiling_cpp.instruction_set
    best = instruction_set("")
    try:
        instruction_set(request.param.removeprefix("cpp "))
    except ValueError as error:
        pytest.skip(str(error))
    yield "cpp"
    instruction_set(best)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
