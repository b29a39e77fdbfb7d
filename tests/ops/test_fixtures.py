"""The default device and the instruction set that `backend` selects last for one test.

The fixture nothing_selected_before checks before every test that none has left anything behind.
"""

import pytest
import torch

from pymultiling import triton_kernels
from pymultiling.ops import unavailable
from tests.support import backends
from tests.support.backends import running_on, selected_instruction_set


@pytest.fixture
def a_gpu(monkeypatch):
    """Makes the tests believe that Triton kernels run on a GPU, which is the device without memory here."""
    monkeypatch.setattr(backends, "unavailable", lambda name: None)
    monkeypatch.setattr(triton_kernels, "interpreted", lambda: False)
    monkeypatch.setattr(backends, "KERNEL_DEVICE", "meta")


def test_tensors_are_created_on_the_gpu_only_inside_the_block(a_gpu):
    with running_on("triton") as name:
        assert name == "triton" and torch.ones(1).device.type == "meta"
    assert torch.ones(1).device.type == "cpu"


def test_the_default_device_is_restored_after_a_failed_test(a_gpu):
    with pytest.raises(AssertionError, match="failed"), running_on("triton"):
        raise AssertionError("failed")
    assert torch.get_default_device() == torch.device("cpu")


def test_other_backends_leave_the_default_device(a_gpu):
    with running_on("torch"):
        assert torch.ones(1).device.type == "cpu"


@pytest.mark.skipif(unavailable("cpp") is not None, reason=f"no C++ kernels: {unavailable('cpp')}")
def test_the_instruction_set_is_restored():
    before = selected_instruction_set()
    with running_on("cpp portable") as name:
        assert name == "cpp" and selected_instruction_set() == "portable"
    assert selected_instruction_set() == before
