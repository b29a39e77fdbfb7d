"""Which backend runs, and what is said where one cannot; the same on machines with and without a GPU."""

import warnings
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from pymultiling import triton_kernels
from pymultiling.errors import BackendUnavailable
from pymultiling.ops import column_energy, dispatch, reference, unavailable, value_gram

GPU = SimpleNamespace(device=torch.device("cuda:0"), dtype=torch.bfloat16, is_cuda=True)
OPERATORS = (
    "active_count",
    "column_energy",
    "gated_ffn",
    "mask_neurons",
    "mask_neurons_",
    "nearest_neighbors",
    "qk_estimate",
    "qk_importance",
    "value_energy",
)


@pytest.fixture
def fresh():
    """Nothing is remembered from before, nor after."""
    remembered = (dispatch.load_triton, dispatch._warn_once)
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
    return pytest.mark.skipif(dispatch.load_triton() is not None, reason=str(dispatch.load_triton()))


@needs_triton()
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_gpu_runs_triton_kernels(a_gpu, operator):
    for backend in ("auto", "triton"):
        function = dispatch.implementation(operator, GPU, backend)
        assert function.func is dispatch._on_device_of and function.args[1] is triton_kernels.launcher(operator)


@needs_triton()
def test_products_of_weights_are_left_to_pytorch(a_gpu):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dispatch.implementation("value_gram", GPU) is reference.value_gram
    with pytest.raises(BackendUnavailable, match="cannot run value_gram: it has no such kernel"):
        dispatch.implementation("value_gram", GPU, "triton")


@needs_triton()
def test_the_cpu_never_takes_the_interpreter_by_itself():
    for operator in OPERATORS:
        function = dispatch.implementation(operator, torch.ones(2))
        assert function in (getattr(reference, operator), getattr(torch.ops.pymultiling_cpp, operator, None))


@needs_triton()
def test_float64_is_not_for_triton(a_gpu):
    wide = SimpleNamespace(device=GPU.device, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dispatch.implementation("column_energy", wide) is reference.column_energy
    with pytest.raises(BackendUnavailable, match="take float32, bfloat16 and float16, not torch.float64"):
        dispatch.implementation("column_energy", wide, "triton")


def test_without_triton_a_gpu_runs_plain_pytorch_and_says_so_once(a_gpu):
    with mock.patch("importlib.util.find_spec", lambda name: None):
        assert unavailable("triton") == "Triton is not installed (pip install triton)"
        with pytest.warns(UserWarning, match="plain PyTorch, which is much slower here: Triton is not installed"):
            assert dispatch.implementation("column_energy", GPU) is reference.column_energy
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dispatch.implementation("gated_ffn", GPU)


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


@pytest.fixture
def the_cuda_extension(a_gpu):
    """As where it was built; it gives its arguments back."""
    with (
        mock.patch.object(dispatch, "load_extension", lambda name="_cpp": None),
        mock.patch.object(torch.ops, "pymultiling_cuda", SimpleNamespace(qk_importance=lambda *x: x), create=True),
    ):
        yield


def attention(**other) -> tuple:
    """qk_importance's arguments, of which a GPU's tensors differ in their device only."""
    names = ("q", "k", "q_plain", "k_plain", "cos", "sin", "valid", "q_gain", "k_gain")
    x = torch.zeros(1, 1, 3, other.pop("size", 64), dtype=torch.bfloat16)
    given = dict.fromkeys(names, None) | {"q": x, "k": x, "q_plain": x, "k_plain": x}
    settings = {"scale": 1.0, "window": None, "softcap": None, "interleaved": False}
    return tuple((given | settings | other).values())


def test_the_cuda_kernel_runs_where_it_is_asked_for(the_cuda_extension):
    arguments = attention()
    assert dispatch.implementation("qk_importance", GPU, "cuda")(*arguments) == arguments
    with pytest.raises(BackendUnavailable, match="cannot run gated_ffn: it has no such kernel"):
        dispatch.implementation("gated_ffn", GPU, "cuda")


@needs_triton()
def test_the_cuda_kernel_is_never_chosen(the_cuda_extension):
    assert dispatch.implementation("qk_importance", GPU).func is dispatch._on_device_of


@pytest.mark.parametrize(
    "other, reason",
    [
        ({"q_gain": torch.ones(1)}, "its kernel knows no norm over the head"),
        ({"k_gain": torch.ones(1)}, "its kernel knows no norm over the head"),
        ({"softcap": 2.0}, "its kernel knows no soft cap"),
        ({"size": 80}, "its kernel takes heads whose size is a multiple of 32, 256 at most, not 80"),
        ({"size": 288}, "its kernel takes heads whose size is a multiple of 32, 256 at most, not 288"),
        ({"cos": torch.ones(1, 3, 6)}, "its kernel takes a multiple of 4 rotated dimensions, not 6"),
        ({"k_plain": torch.ones(1)}, "its kernels take bfloat16, not torch.float32"),
    ],
)
def test_what_the_cuda_kernel_does_not_take(the_cuda_extension, other, reason):
    with pytest.raises(BackendUnavailable) as error:
        dispatch.implementation("qk_importance", GPU, "cuda")(*attention(**other))
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
    with mock.patch.object(dispatch, "__file__", str(tmp_path / "ops" / "dispatch.py")):
        reason = dispatch.load_extension.__wrapped__("_cuda")
    assert reason == "the CUDA extension was not built (pip install found no nvcc, or a torch without CUDA)"


def test_other_backends():
    assert unavailable("torch") is None
    with pytest.raises(BackendUnavailable, match='backend="torch" always can'):
        column_energy(torch.ones(2, 3), backend="cuda")
    with pytest.raises(ValueError, match="not one of auto, triton"):
        value_gram(torch.ones(2, 3), 1, 1, backend="fast")


@needs_triton()
@pytest.mark.parametrize("name", triton_kernels.MODULES)
def test_every_compilation_is_listed_once_and_in_full(name):
    module = triton_kernels.module(name)
    variants = list(module.variants())
    assert len({(variant.operator, variant.name) for variant in variants}) == len(variants) > 0
    for variant in variants:
        arguments = [*variant.signature, *variant.constants]
        assert sorted(arguments) == sorted(variant.kernel.arg_names)
        assert set(variant.divisible) <= set(variant.signature)
        assert variant.operator in OPERATORS and variant.num_warps in (1, 2, 4, 8, 16)
