"""Which backend runs, and what is said where one cannot; the same on machines with and without a GPU."""

import warnings
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from pymultiling import triton_kernels
from pymultiling.errors import BackendUnavailable
from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.ops import backends, column_energy, dispatch, unavailable, value_gram
from pymultiling.ops.registry import OPERATORS

GPU = SimpleNamespace(device=torch.device("cuda:0"), dtype=torch.bfloat16, is_cuda=True)
ON_GPU = tuple(name for name, operator in OPERATORS.items() if "triton" in operator.kernels)


def attention(**other) -> tuple[QKProblem]:
    """The arguments of qk_importance, of which a GPU's tensors differ in their device only."""
    x = torch.zeros(1, 1, 3, other.pop("size", 64), dtype=torch.bfloat16)
    given = dict.fromkeys(QKProblem._fields) | {"q": x, "k": x, "q_plain": x, "k_plain": x}
    return (QKProblem(**(given | {"scale": 1.0, "interleaved": False} | other)),)


def arguments(name: str, tensor=GPU) -> tuple:
    """An operator's, as far as dispatch looks at them: the first tensor, and what it may be refused for."""
    if OPERATORS[name].arguments_type is not None:
        return (attention()[0]._replace(q=tensor),)
    return (tensor, 5, "cosine") if name == "nearest_neighbors" else (tensor,)


def implementation(name: str, tensor=GPU, backend: str = "auto"):
    return dispatch.select_implementation(name, arguments(name, tensor), backend)


def reference(name: str):
    return OPERATORS[name].reference()


@pytest.fixture
def fresh():
    """Nothing is remembered from before, nor after."""
    remembered = (backends.load_triton, dispatch._warn_once)
    for function in remembered:
        function.cache_clear()
    yield
    for function in remembered:
        function.cache_clear()


@pytest.fixture
def a_gpu(fresh):
    """As on a machine with one."""
    with (
        mock.patch.object(triton_kernels, "interpreted", lambda: False),
        mock.patch.object(torch.cuda, "is_available", lambda: True),
        mock.patch.object(torch.cuda, "get_device_capability", lambda device: (9, 0)),
    ):
        yield


def needs_triton():
    return pytest.mark.skipif(backends.load_triton() is not None, reason=str(backends.load_triton()))


@needs_triton()
@pytest.mark.parametrize("operator", ON_GPU)
def test_a_gpu_runs_triton_kernels(a_gpu, operator):
    for backend in ("auto", "triton"):
        function = implementation(operator, GPU, backend)
        assert function.func is dispatch._launch_on_device_of and function.args[1] is OPERATORS[operator].launcher()


@needs_triton()
@pytest.mark.parametrize("operator", sorted(set(OPERATORS) - set(ON_GPU)))
def test_what_has_no_triton_kernel_is_left_to_pytorch(a_gpu, operator):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert implementation(operator) is reference(operator)
    with pytest.raises(BackendUnavailable, match=f"cannot run {operator}: it has no such kernel"):
        implementation(operator, GPU, "triton")


@needs_triton()
def test_many_neighbours_are_left_to_pytorch(a_gpu):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = dispatch.select_implementation("nearest_neighbors", (GPU, 17, "cosine"))
    assert found is reference("nearest_neighbors")
    with pytest.raises(BackendUnavailable, match="its kernel takes k up to 16, not 17"):
        dispatch.select_implementation("nearest_neighbors", (GPU, 17, "cosine"), "triton")


@needs_triton()
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_cpu_never_takes_the_interpreter_by_itself(operator):
    function = implementation(operator, torch.ones(2))
    compiled = getattr(torch.ops.pymultiling_cpp, operator, None)
    assert function in (reference(operator), compiled) or function.args == (compiled,)


@needs_triton()
def test_float64_is_not_for_triton(a_gpu):
    wide = SimpleNamespace(device=GPU.device, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert implementation("column_energy", wide) is reference("column_energy")
    with pytest.raises(BackendUnavailable, match="take float32, bfloat16 and float16, not torch.float64"):
        implementation("column_energy", wide, "triton")


def test_without_triton_a_gpu_runs_plain_pytorch_and_says_so_once(a_gpu):
    with mock.patch("importlib.util.find_spec", lambda name: None):
        assert unavailable("triton") == "Triton is not installed (pip install triton)"
        with warnings.catch_warnings():  # no kernel is missed
            warnings.simplefilter("error")
            assert implementation("normed_energy") is reference("normed_energy")
        with pytest.warns(UserWarning, match="plain PyTorch, which is much slower here: Triton is not installed"):
            assert implementation("column_energy") is reference("column_energy")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            implementation("gated_ffn")


def test_a_triton_that_cannot_be_imported_is_not_an_error(a_gpu):
    def broken():
        raise ImportError("no libfoo")

    with mock.patch.object(triton_kernels, "interpreted", broken):
        assert unavailable("triton") in (
            "Triton cannot be imported (no libfoo)",
            "Triton is not installed (pip install triton)",
        )


@needs_triton()
def test_why_triton_cannot_run(a_gpu):
    assert unavailable("triton") is None
    assert "the tensors are on cpu" in unavailable("triton", torch.ones(2))
    with mock.patch.object(torch.cuda, "get_device_capability", lambda device: (7, 5)):
        assert unavailable("triton") == "Triton needs compute capability 8.0, the GPU has less"
    with mock.patch.object(torch.cuda, "is_available", lambda: False):
        assert unavailable("triton") == "there is no GPU that torch can use"
    with mock.patch.object(triton_kernels, "interpreted", lambda: True):
        assert unavailable("triton") is None and unavailable("triton", torch.ones(2)) is None
        assert "under TRITON_INTERPRET its kernels run on the CPU" in unavailable("triton", GPU)


class OnGPU:
    """A tensor as dispatch sees one on a GPU."""

    def __init__(self, tensor: torch.Tensor):
        self.device, self.dtype, self.shape, self.is_cuda = GPU.device, tensor.dtype, tensor.shape, True


@pytest.fixture
def the_cuda_extension(a_gpu):
    """As where it was built; it gives its arguments back."""
    with (
        mock.patch.object(backends, "load_extension", lambda name="_cpp": None),
        mock.patch.object(torch.ops, "pymultiling_cuda", SimpleNamespace(qk_importance=lambda *x: x), create=True),
    ):
        yield


def test_the_cuda_kernel_runs_where_it_is_asked_for(the_cuda_extension):
    (problem,) = attention()
    problem = problem._replace(q=OnGPU(problem.q))
    assert dispatch.select_implementation("qk_importance", (problem,), "cuda")(problem) == tuple(problem)
    with pytest.raises(BackendUnavailable, match="cannot run gated_ffn: it has no such kernel"):
        implementation("gated_ffn", GPU, "cuda")


@needs_triton()
def test_the_cuda_kernel_is_never_chosen(the_cuda_extension):
    assert implementation("qk_importance").func is dispatch._launch_on_device_of


@pytest.mark.parametrize(
    "other, reason",
    [
        ({"q_gain": torch.ones(1)}, "its kernel does not support a norm over the head"),
        ({"k_gain": torch.ones(1)}, "its kernel does not support a norm over the head"),
        ({"softcap": 2.0}, "its kernel does not support a soft cap"),
        ({"size": 80}, "its kernel takes heads whose size is a multiple of 32, 256 at most, not 80"),
        ({"size": 288}, "its kernel takes heads whose size is a multiple of 32, 256 at most, not 288"),
        ({"cos": torch.ones(1, 3, 6)}, "its kernel takes a multiple of 4 rotated dimensions, not 6"),
        ({"k_plain": torch.ones(1)}, "its kernels take bfloat16, not torch.float32"),
    ],
)
def test_what_the_cuda_kernel_does_not_take(the_cuda_extension, other, reason):
    with pytest.raises(BackendUnavailable) as error:
        (problem,) = attention(**other)
        dispatch.select_implementation("qk_importance", (problem._replace(q=OnGPU(problem.q)),), "cuda")
    assert str(error.value) == f'backend="cuda" cannot run qk_importance: {reason}; backend="torch" always can'


def test_why_the_cuda_kernel_cannot_run(the_cuda_extension):
    assert unavailable("cuda") is None and unavailable("cuda", GPU) is None
    assert "the tensors are on cpu" in unavailable("cuda", torch.ones(2))
    wide = SimpleNamespace(device=GPU.device, dtype=torch.float32)
    assert unavailable("cuda", wide) == "its kernels take bfloat16, not torch.float32"
    with mock.patch.object(torch.cuda, "get_device_capability", lambda device: (7, 5)):
        assert unavailable("cuda") == "its kernel needs compute capability 8.0, the GPU has less"
    with mock.patch.object(torch.cuda, "is_available", lambda: False):
        assert unavailable("cuda") == "there is no GPU that torch can use"


def test_without_the_cuda_extension(tmp_path):
    with mock.patch.object(backends, "__file__", str(tmp_path / "ops" / "backends.py")):
        reason = backends.load_extension.__wrapped__("_cuda")
    assert reason == "the CUDA extension was not built (pip install found no nvcc, or a torch without CUDA)"


def test_other_backends():
    assert unavailable("torch") is None
    with pytest.raises(BackendUnavailable, match='backend="torch" always can'):
        column_energy(torch.ones(2, 3), backend="cuda")
    with pytest.raises(ValueError, match="not one of auto, triton"):
        value_gram(torch.ones(2, 3), 1, 1, backend="fast")


@needs_triton()
@pytest.mark.parametrize("name", sorted({OPERATORS[name].module_name for name in ON_GPU}))
def test_every_compilation_is_listed_once_and_in_full(name):
    module = OPERATORS[name].triton_module()
    variants = list(module.variants())
    assert len({(variant.operator, variant.name) for variant in variants}) == len(variants) > 0
    for variant in variants:
        arguments = [*variant.signature, *variant.constants]
        assert sorted(arguments) == sorted(variant.kernel.arg_names)
        assert set(variant.divisible) <= set(variant.signature)
        assert variant.operator in ON_GPU and variant.num_warps in (1, 2, 4, 8, 16)
