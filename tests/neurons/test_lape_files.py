"""Files in the layout of LAPE's published code: every part is damaged in turn, and none of these files loads."""

import os
import pickle
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pymultiling import CheckpointError, NeuronSet

WIDTH = 6
SETS = [NeuronSet({"ffn": torch.eye(3, WIDTH, dtype=torch.bool).roll(shift, 1)}) for shift in (0, 2)]
GOOD = torch.tensor([0, 5])


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def with_layer(value) -> list:
    return [[GOOD, GOOD], [GOOD, value]]


# {what: (content of the file, words of the message)}
DAMAGES = {
    "a mask": (with_layer(torch.ones(WIDTH, dtype=torch.bool)), "language 2, layer 1 is a tensor of bool"),
    "None": (with_layer(None), "layer 1 is a NoneType"),
    "a list": (with_layer([0, 5]), "layer 1 is a list"),
    "a number": (with_layer(5), "layer 1 is a int"),
    "floats": (with_layer(torch.tensor([0.0])), "tensor of float32"),
    "NaN": (with_layer(torch.tensor([float("nan")])), "tensor of float32"),
    "int32": (with_layer(GOOD.int()), "tensor of int32"),
    "a matrix": (with_layer(GOOD[None]), r"tensor of int64 \(1, 2\)"),
    "a number without dimension": (with_layer(torch.tensor(3)), r"tensor of int64 \(\)"),
    "sparse": (with_layer(GOOD.to_sparse()), "tensor of int64"),
    "meta": (with_layer(GOOD.to("meta")), "tensor of int64"),
    "a parameter": (with_layer(torch.nn.Parameter(GOOD.double())), "tensor of float64"),
    "negative": (with_layer(torch.tensor([2, -1])), "indices -1 to 2"),
    "too large": (with_layer(torch.tensor([2, WIDTH])), "indices 2 to 6, and the FFN of this model has 6 neurons"),
    "much too large": (with_layer(torch.tensor([2**62])), "indices"),
    "too many": (with_layer(torch.zeros(1, dtype=torch.int64).expand(10**12)), "has 1,000,000,000,000 neurons"),
    "layers differ": ([[GOOD, GOOD], [GOOD]], "language 1 has 2 layers and language 2 has 1"),
    "no layer": ([[], []], "language 1 is an empty list"),
    "no language": ([], "holds an empty list"),
    "a tensor": (torch.ones(2, 3, WIDTH, dtype=torch.int64), r"holds a tensor of int64 \(2, 3, 6\)"),
    "a tensor for a language": ([torch.ones(3, WIDTH, dtype=torch.int64)], "language 1 is a tensor"),
    "by name": ({"fr": [GOOD], "de": [GOOD]}, "holds a dict"),
    "None in all": (None, "holds a NoneType"),
    "a text": ("\x1b[31mred", "holds a str"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_other_layouts_are_refused(tmp_path, what):
    content, words = DAMAGES[what]
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=f"a.pth .*{words}") as refused:
        NeuronSet.from_lape(tmp_path / "a.pth", WIDTH)
    assert str(refused.value).isprintable()


def test_damaged_and_other_files_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    NeuronSet.to_lape(SETS, path)
    whole = path.read_bytes()
    SETS[0].save(tmp_path / "set.safetensors")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("data.pkl", pickle.dumps([[1]]))
    contents = [whole[:end] for end in (0, 1, 4, 100, len(whole) // 2, len(whole) - 1)]
    contents += [b"text", b"[]", "[[0]]".encode("utf-16"), pickle.dumps([[GOOD.numpy()]]), pickle.dumps([[0]])]
    contents += [pickle.dumps(Code(tmp_path / "executed")), (tmp_path / "a.zip").read_bytes()]
    contents += [(tmp_path / "set.safetensors").read_bytes()]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"a.pth is not a torch file .* or is damaged|a.pth has not the layout"
        ):
            NeuronSet.from_lape(path, WIDTH)
    torch.save(Code(tmp_path / "executed"), path)
    with pytest.raises(CheckpointError, match=r"a\.pth is not a torch file with plain tensors"):
        NeuronSet.from_lape(path, WIDTH)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(CheckpointError, match="no such file"):
        NeuronSet.from_lape(tmp_path / "absent", WIDTH)
    with pytest.raises(CheckpointError, match="no such file"):
        NeuronSet.from_lape(tmp_path, WIDTH)


@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_gives_a_set_or_a_checkpoint_error(tmp_path, place, byte):
    path = tmp_path / "a.pth"
    NeuronSet.to_lape(SETS, path)
    whole = bytearray(path.read_bytes())
    whole[int(place * len(whole))] = byte
    path.write_bytes(whole)
    try:
        sets = NeuronSet.from_lape(path, WIDTH)
    except CheckpointError:
        return
    assert all(neurons.sites["ffn"].shape[1] == WIDTH for neurons in sets)


def test_layers_without_neurons_and_files_of_older_torch_load(tmp_path):
    empty = torch.zeros(0, dtype=torch.int64)
    torch.save([[empty, GOOD]], tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    (neurons,) = NeuronSet.from_lape(tmp_path / "a.pth", WIDTH)
    assert neurons.sites["ffn"].tolist() == [[False] * 6, [True, False, False, False, False, True]]


def test_a_width_below_1_is_refused(tmp_path):
    NeuronSet.to_lape(SETS, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="width must be the model's FFN width, at least 1, got 0"):
        NeuronSet.from_lape(tmp_path / "a.pth", 0)
