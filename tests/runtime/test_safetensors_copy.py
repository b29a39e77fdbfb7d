"""Files of tensors are copied tensor by tensor, some of them changed."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pymultiling.errors import CheckpointError
from pymultiling.runtime.safetensors_copy import copy_tensors

TENSORS = {
    "weight": torch.randn(3, 5, dtype=torch.bfloat16),
    "bias": torch.randn(5),
    "wide": torch.randn(2, 2, dtype=torch.float64),
    "half": torch.randn(7, dtype=torch.float16),
    "number": torch.tensor(1.5),
    "empty": torch.zeros(0, 4),
    "positions": torch.arange(7),
    "mask": torch.tensor([True, False, True]),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "quantised": torch.randn(4).to(torch.float8_e4m3fn),
}
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture
def source(tmp_path):
    save_file(TENSORS, tmp_path / "source.safetensors", metadata={"format": "pt", "é": "ü"})
    return tmp_path / "source.safetensors"


def assert_equal(tensors, expected) -> None:
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == expected[name].dtype and tensor.shape == expected[name].shape, name
        assert torch.equal(tensor.view(torch.uint8) if tensor.ndim else tensor,
                           expected[name].view(torch.uint8) if tensor.ndim else expected[name]), name  # fmt: skip


def test_a_copy_without_changes_has_the_same_tensors_and_metadata(source, tmp_path):
    size = copy_tensors(source, tmp_path / "copy.safetensors", {})
    assert_equal(load_file(tmp_path / "copy.safetensors"), TENSORS)
    assert size == sum(tensor.nbytes for tensor in TENSORS.values())
    with safe_open(tmp_path / "copy.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "é": "ü"}


@pytest.mark.parametrize("dtype", [None, *FLOATS])
def test_tensors_are_changed_before_they_are_rounded_and_all_floats_are_converted(source, tmp_path, dtype):
    """1/3 is written as the dtype rounds it, not as the stored one does, where the new one is wider."""
    size = copy_tensors(source, tmp_path / "copy.safetensors", {"weight": lambda tensor: tensor.fill_(1 / 3)}, dtype)
    expected = {name: tensor.to(dtype) if dtype and tensor.dtype in FLOATS else tensor
                for name, tensor in TENSORS.items()}  # fmt: skip
    expected["weight"] = torch.full((3, 5), 1 / 3, dtype=dtype or torch.bfloat16)
    assert_equal(load_file(tmp_path / "copy.safetensors"), expected)
    assert size == sum(tensor.nbytes for tensor in expected.values())
    assert_equal(load_file(source), TENSORS)


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_tensor_is_aligned_to_its_size(source, tmp_path, dtype):
    copy_tensors(source, tmp_path / "copy.safetensors", {}, dtype)
    contents = (tmp_path / "copy.safetensors").read_bytes()
    length = int.from_bytes(contents[:8], "little")
    header = json.loads(contents[8 : 8 + length])
    header.pop("__metadata__")
    copied = load_file(tmp_path / "copy.safetensors")
    assert length % 8 == 0
    assert all(entry["data_offsets"][0] % copied[name].itemsize == 0 for name, entry in header.items())


@pytest.mark.parametrize("cut", [4, 100, 10**6])
def test_a_damaged_file_is_refused(source, tmp_path, cut):
    source.write_bytes(source.read_bytes()[:-cut])
    with pytest.raises(CheckpointError, match="is damaged, or no safetensors file"):
        copy_tensors(source, tmp_path / "copy.safetensors", {})
    assert not (tmp_path / "copy.safetensors").exists()
