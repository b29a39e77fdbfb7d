"""Which backend runs, and the message if it cannot. The tests do not depend on whether the machine has a GPU."""

import warnings
from importlib.machinery import EXTENSION_SUFFIXES
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


def attention(**changes) -> tuple[QKProblem]:
    """Returns the argument of qk_importance's reference, with these fields and head size `size`, as a tuple.

    Its tensors are on the CPU. For dispatch, tensors on a GPU differ only in their device.
    """
    x = torch.zeros(1, 1, 3, changes.pop("size", 64), dtype=torch.bfloat16)
    fields = dict.fromkeys(QKProblem._fields) | {"q": x, "k": x, "q_plain": x, "k_plain": x}
    return (QKProblem(**(fields | {"scale": 1.0, "interleaved": False, "causal": True} | changes)),)


def arguments(name: str, tensor=GPU) -> tuple:
    """Returns the arguments that dispatch looks at: the first tensor, and what a kernel may not support."""
    if OPERATORS[name].arguments_type is not None:
        return (attention()[0]._replace(q=tensor),)
    heads, projected, weight = torch.ones(1, 1, 3, 4), torch.ones(1, 3, 4), torch.ones(4)
    further = {
        "nearest_neighbors": (5, "cosine"),
        "centred_importance": (
            heads, projected, projected, weight, weight, 1.0, 1.0, None, None, torch.ones(1, 3, dtype=torch.bool),
        ),
    }  # fmt: skip
    return (tensor, *further.get(name, ()))


def selected(name: str, tensor=GPU, backend: str = "auto"):
    """Returns the function that dispatch selects for an operator whose first tensor is `tensor`."""
    return dispatch.select_implementation(name, arguments(name, tensor), backend)


def reference(name: str):
    return OPERATORS[name].reference()


@pytest.fixture
def fresh_caches():
    """Clears what dispatch has cached, before and after the test."""
    cached = (backends.load_triton, dispatch._warn_once)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.fixture
def a_gpu(fresh_caches):
    """Makes dispatch believe that the machine has a GPU."""
    with (
        mock.patch.object(triton_kernels, "interpreted", return_value=False),
        mock.patch.object(torch.cuda, "is_available", return_value=True),
        mock.patch.object(backends, "capability", return_value=(9, 0)),
    ):
        yield


def needs_triton():
    """Returns a mark that skips a test where Triton cannot be imported."""
    return pytest.mark.skipif(backends.load_triton() is not None, reason=str(backends.load_triton()))


@needs_triton()
@pytest.mark.parametrize("operator", ON_GPU)
def test_a_gpu_runs_triton_kernels(a_gpu, operator):
    for backend in ("auto", "triton"):
        function = selected(operator, GPU, backend)
        assert function.func is dispatch._launch_on_device_of and function.args[1] is OPERATORS[operator].launcher


@needs_triton()
@pytest.mark.parametrize("operator", sorted(set(OPERATORS) - set(ON_GPU)))
def test_an_operator_without_a_triton_kernel_runs_plain_pytorch(a_gpu, operator):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert selected(operator) is reference(operator)
    with pytest.raises(BackendUnavailable, match=f"cannot run {operator}: it has no such kernel"):
        selected(operator, GPU, "triton")


@needs_triton()
def test_more_than_16_neighbours_run_plain_pytorch(a_gpu):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function = dispatch.select_implementation("nearest_neighbors", (GPU, 17, "cosine"))
    assert function is reference("nearest_neighbors")
    with pytest.raises(BackendUnavailable, match="its kernel takes k up to 16, not 17"):
        dispatch.select_implementation("nearest_neighbors", (GPU, 17, "cosine"), "triton")


@needs_triton()
@pytest.mark.parametrize("operator", OPERATORS)
def test_auto_never_selects_the_interpreter_on_the_cpu(operator):
    function = selected(operator, torch.ones(1, 1, 3, 4))
    compiled = getattr(torch.ops.pymultiling_cpp, operator, None)
    assert function in (reference(operator), compiled) or function.args == (compiled,)


@needs_triton()
def test_float64_runs_plain_pytorch_on_a_gpu(a_gpu):
    float64_tensor = SimpleNamespace(device=GPU.device, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert selected("column_energy", float64_tensor) is reference("column_energy")
    with pytest.raises(BackendUnavailable, match=r"take float32, bfloat16 and float16, not torch.float64"):
        selected("column_energy", float64_tensor, "triton")


def test_without_triton_a_gpu_runs_plain_pytorch_and_warns_once(a_gpu):
    with mock.patch("importlib.util.find_spec", return_value=None):
        assert unavailable("triton") == "Triton is not installed (pip install triton)"
        with warnings.catch_warnings():  # the operator has no kernel, so none is missing
            warnings.simplefilter("error")
            assert selected("value_gram") is reference("value_gram")
        with pytest.warns(UserWarning, match="plain PyTorch, which is much slower here: Triton is not installed"):
            assert selected("column_energy") is reference("column_energy")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            selected("gated_ffn")


def test_an_import_error_of_triton_becomes_the_reason(a_gpu):
    def broken():
        raise ImportError("no libfoo")

    with mock.patch.object(triton_kernels, "interpreted", broken):
        assert unavailable("triton") in (
            "Triton cannot be imported (no libfoo)",
            "Triton is not installed (pip install triton)",
        )


@needs_triton()
def test_unavailable_names_the_reason_why_triton_cannot_run(a_gpu):
    assert unavailable("triton") is None
    assert "the tensors are on cpu" in unavailable("triton", torch.ones(2))
    with mock.patch.object(backends, "capability", return_value=(7, 5)):
        assert unavailable("triton") == "Triton needs compute capability 8.0, the GPU has less"
    with mock.patch.object(torch.cuda, "is_available", return_value=False):
        assert unavailable("triton") == "there is no GPU that torch can use"
    with mock.patch.object(triton_kernels, "interpreted", return_value=True):
        assert unavailable("triton") is None and unavailable("triton", torch.ones(2)) is None
        assert "under TRITON_INTERPRET its kernels run on the CPU" in unavailable("triton", GPU)


class OnGPU:
    """A tensor that claims to be on a GPU: the attributes that dispatch reads."""

    def __init__(self, tensor: torch.Tensor):
        self.device, self.dtype, self.shape, self.is_cuda = GPU.device, tensor.dtype, tensor.shape, True


@pytest.fixture
def the_cuda_extension(a_gpu):
    """Makes dispatch believe that the CUDA extension was built. Its operator returns its arguments."""
    with (
        mock.patch.object(backends, "load_extension", return_value=None),
        mock.patch.object(torch.ops, "pymultiling_cuda", SimpleNamespace(qk_importance=lambda *x: x), create=True),
    ):
        yield


def test_the_cuda_kernel_runs_if_it_is_asked_for(the_cuda_extension):
    (problem,) = attention()
    problem = problem._replace(q=OnGPU(problem.q))
    assert dispatch.select_implementation("qk_importance", (problem,), "cuda")(problem) == tuple(problem)
    with pytest.raises(BackendUnavailable, match="cannot run gated_ffn: it has no such kernel"):
        selected("gated_ffn", GPU, "cuda")


@needs_triton()
def test_auto_never_selects_the_cuda_kernel(the_cuda_extension):
    assert selected("qk_importance").func is dispatch._launch_on_device_of


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"q_growth": torch.ones(1)}, "its kernel does not support a norm over the head"),
        ({"k_growth": torch.ones(1)}, "its kernel does not support a norm over the head"),
        ({"softcap": 2.0}, "its kernel does not support a soft cap"),
        ({"causal": False}, "its kernel does not support attention to later tokens"),
        ({"bias": torch.ones(1)}, "its kernel does not support biases of the attention scores"),
        ({"sinks": torch.ones(1)}, "its kernel does not support attention sinks"),
        ({"size": 80}, "its kernel takes heads whose size is a multiple of 32, 256 at most, not 80"),
        ({"size": 288}, "its kernel takes heads whose size is a multiple of 32, 256 at most, not 288"),
        ({"cos": torch.ones(1, 3, 6)}, "its kernel takes a multiple of 4 rotated dimensions, not 6"),
        ({"k_plain": torch.ones(1)}, "its kernels take bfloat16, not torch.float32"),
    ],
)
def test_the_cuda_kernel_refuses_unsupported_arguments(the_cuda_extension, changes, reason):
    (problem,) = attention(**changes)
    with pytest.raises(BackendUnavailable) as error:
        dispatch.select_implementation("qk_importance", (problem._replace(q=OnGPU(problem.q)),), "cuda")
    assert str(error.value) == f'backend="cuda" cannot run qk_importance: {reason}; backend="torch" always can'


def test_unavailable_names_the_reason_why_the_cuda_kernel_cannot_run(the_cuda_extension):
    assert unavailable("cuda") is None and unavailable("cuda", GPU) is None
    assert "the tensors are on cpu" in unavailable("cuda", torch.ones(2))
    float32_tensor = SimpleNamespace(device=GPU.device, dtype=torch.float32)
    assert unavailable("cuda", float32_tensor) == "its kernels take bfloat16, not torch.float32"
    with mock.patch.object(backends, "capability", return_value=(7, 5)):
        assert unavailable("cuda") == "its kernel needs compute capability 8.0, the GPU has less"
    with mock.patch.object(torch.cuda, "is_available", return_value=False):
        assert unavailable("cuda") == "there is no GPU that torch can use"


def test_the_reason_without_the_cuda_extension_names_what_was_missing(tmp_path):
    with mock.patch.object(backends, "__file__", str(tmp_path / "ops" / "backends.py")):
        reason = backends.load_extension.__wrapped__("_cuda")
    assert reason == "the CUDA extension was not built (pip install found no nvcc, or a torch without CUDA)"


def test_an_extension_that_was_built_for_another_torch_is_not_loaded(tmp_path):
    (tmp_path / f"_cpp{EXTENSION_SUFFIXES[0]}").write_bytes(b"not a library")
    (tmp_path / "_cpp.torch").write_text("2.1.2+cpu")
    with mock.patch.object(backends, "__file__", str(tmp_path / "ops" / "backends.py")):
        assert backends.load_extension.__wrapped__() == (
            f"the C++ extension was built for torch 2.1.2+cpu, and this is torch {torch.__version__}: install "
            "pymultiling again, or torch 2.1.2"
        )
        (tmp_path / "_cpp.torch").write_text(".".join(torch.__version__.split(".")[:2]) + ".99")
        assert "does not fit this torch" in backends.load_extension.__wrapped__()  # it was loaded


def test_torch_always_runs_and_unknown_backends_are_refused():
    assert unavailable("torch") is None
    with pytest.raises(BackendUnavailable, match='backend="torch" always can'):
        column_energy(torch.ones(2, 3), backend="cuda")
    with pytest.raises(ValueError, match="not one of auto, triton"):
        value_gram(torch.ones(2, 3), 1, 1, backend="fast")


@needs_triton()
@pytest.mark.parametrize("name", sorted({OPERATORS[name].module_name for name in ON_GPU}))
def test_every_variant_is_listed_once_with_all_arguments(name):
    module = OPERATORS[name].triton_module()
    variants = list(module.variants())
    assert len({(variant.operator, variant.name) for variant in variants}) == len(variants) > 0
    for variant in variants:
        arguments = [*variant.signature, *variant.constants]
        assert sorted(arguments) == sorted(variant.kernel.arg_names)
        assert set(variant.divisible) <= set(variant.signature)
        assert variant.operator in ON_GPU and variant.num_warps in (1, 2, 4, 8, 16)
