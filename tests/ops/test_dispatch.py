"""Which backend runs, and what is said where one cannot; the same on machines with and without a GPU."""

import warnings
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from pymultiling import reference, triton_kernels
from pymultiling.errors import BackendUnavailable
from pymultiling.ops import column_energy, dispatch, unavailable, value_gram

GPU = SimpleNamespace(device=torch.device("cuda:0"), dtype=torch.bfloat16, is_cuda=True)
OPERATORS = (
    "column_energy",
    "gated_ffn",
    "mask_neurons",
    "mask_neurons_",
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


def test_other_backends():
    assert unavailable("torch") is None and "CUDA C++" in unavailable("cuda")
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
