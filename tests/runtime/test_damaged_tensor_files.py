"""Every field of every file with tensors is damaged in turn: none of these files loads, and each error says why.

The files have valid safetensors headers, so that nothing but the schemas of the package can refuse them.
"""

import gzip
import json
import os
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import pymultiling as pml
from pymultiling.passes.sums import Sums
from pymultiling.passes.table_rows import TableRows
from pymultiling.runtime.row_tables import MemoryTable
from pymultiling.runtime.storage import METADATA, TENSOR_COUNT, read_metadata
from pymultiling.runtime.tensor_files import TensorFile
from tests.support.tiny_models import random_neurons, tiny_model

TOKENS, DOCUMENTS = 9, 2
INFINITY, NAN = float("inf"), float("nan")


def make_set() -> pml.NeuronSet:
    return pml.NeuronSet({site: torch.eye(3, width, dtype=torch.bool) for site, width in (("ffn", 5), ("q", 4))})


def make_statistics() -> pml.NeuronStatistics:
    importance = {site: torch.rand(DOCUMENTS, 3, width) for site, width in (("ffn", 5), ("q", 4))}
    return pml.NeuronStatistics.of_batch(importance, {k: v > 0.5 for k, v in importance.items()}, TOKENS, "a rule")


SUMS = Sums(mean=torch.ones(3, 4, dtype=torch.float64), count=torch.tensor(7))
TABLE = MemoryTable((2,), torch.float32)
ROWS = TableRows.write(TABLE, torch.tensor([0, 2]), torch.ones(2, 2))
MODEL = tiny_model("llama")
NEURONS = random_neurons(MODEL)


def save_tuning(path: Path) -> None:
    with pml.train_only(MODEL, NEURONS) as trained:
        trained.save(path)


class Format(NamedTuple):
    """A format: how its file is written and read, counts in its metadata, and impossible values of its tensors."""

    save: Callable[[Path], None]
    load: Callable[[Path], object]
    counts: tuple[str, ...]
    values: Callable[[str], tuple[float, ...]]


def values_of_statistics(name: str) -> tuple[float, ...]:
    return (-1, DOCUMENTS + 1) if name.startswith(("votes", "top")) else (-1.0, INFINITY, -INFINITY, NAN)


def values_of_tuning(name: str) -> tuple[float, ...]:
    return (2, 255) if name.startswith("neurons.") else (INFINITY, -INFINITY, NAN)


FORMATS = {
    "set": Format(lambda path: make_set().save(path), pml.NeuronSet.load, (), lambda _: (2, 255)),
    "statistics": Format(
        lambda path: make_statistics().save(path),
        pml.NeuronStatistics.load,
        ("documents", "tokens"),
        values_of_statistics,
    ),
    "statistics of nothing": Format(
        lambda path: pml.NeuronStatistics.of_nothing({"ffn": 5}, 3, "a rule").save(path),
        pml.NeuronStatistics.load,
        ("documents", "tokens"),
        lambda name: (-1, 1) if name.startswith(("votes", "top")) else (-1.0, 1.0, NAN),
    ),
    "counts": Format(
        lambda path: pml.ActivationStatistics(torch.ones(3, 5, dtype=torch.int64), TOKENS).save(path),
        pml.ActivationStatistics.load,
        ("tokens",),
        lambda _: (-1, TOKENS + 1, -(2**63)),
    ),
    "sums": Format(SUMS.save, SUMS.load, (), lambda name: (-1,) if name == "count" else (NAN,)),
    "rows": Format(ROWS.save, ROWS.load, (), lambda _: (-2, 2**32, 5)),
    "tuning": Format(save_tuning, lambda path: pml.NeuronTuning.load(MODEL, path), (), values_of_tuning),
}
BAD_COUNTS = ("", "-2", "1.5", "1e3", "x", " 9", "1_0", "nan", "9" * 19, "9" * 5000, "٣", 7, None, [], {})
OTHER_DTYPES = (torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32)


def write(path: Path, tensors: dict[str, Tensor], metadata: object) -> None:
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata={METADATA: text})


def damaged_metadata(metadata: dict, counts: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    for name in metadata:
        if name != TENSOR_COUNT:  # earlier files lack it
            yield f"without {name}", {key: value for key, value in metadata.items() if key != name}
        for value in (7, None, [metadata[name]], {"a": "b"}, True):
            yield f"{name} is {value!r}", {**metadata, name: value}
    for name in (*counts, TENSOR_COUNT):
        for value in BAD_COUNTS:
            yield f"{name} is {str(value)[:20]!r}", {**metadata, name: value}
    for form in ("", "pymultiling.neurons/99", "pymultiling.neurons", "\x1b[31mred", "x" * 10**6):
        yield f"format {form[:20]!r}", {**metadata, "format": form}
    for text in ("", "{", "[]", "null", "7", '"a"', "[" * 10**5, '{"format": '):
        yield f"metadata {text[:20]}", text


def damaged_tensors(tensors: dict[str, Tensor], values: Callable) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for name, tensor in tensors.items():
        yield f"without {name}", {key: value for key, value in tensors.items() if key != name}
        yield f"{name} under another name", {f"{key}x" if key == name else key: value for key, value in tensors.items()}
        for dtype in OTHER_DTYPES:
            # Files of float32 and of float64 models differ in this dtype alone.
            if dtype != tensor.dtype and not {dtype, tensor.dtype} <= {torch.float32, torch.float64}:
                yield f"{name} as {dtype}", {**tensors, name: tensor.to(dtype)}
        shapes = {"a dimension more": tensor[None], "flat": tensor.reshape(-1, 1, 1), "of one number": torch.zeros(())}
        for what, other in shapes.items():
            if other.shape != tensor.shape:
                yield f"{name} {what}", {**tensors, name: other.to(tensor.dtype)}
        if tensor.ndim and len(tensors) > 1:
            yield f"{name} without its last row", {**tensors, name: tensor[:-1]}
            yield f"{name} without rows", {**tensors, name: tensor[:0]}
        for value in values(name):
            for index in {0, tensor.numel() - 1}:
                changed = tensor.clone().flatten()
                changed[index] = value
                yield f"{name}[{index}] is {value}", {**tensors, name: changed.reshape(tensor.shape)}
    for name in ("extra", "ffn.q", "sum.sum", "", ".", "neurons.", "\x1b[31mred", "x" * 10**6, "sum.z", "a.weight"):
        yield f"also {name[:20]!r}", {**tensors, name: torch.zeros(1)}
    yield "no tensor", {}


def damaged_bytes(whole: bytes, folder: Path) -> Iterator[tuple[str, bytes]]:
    header = int.from_bytes(whole[:8], "little")
    for end in {0, 1, 7, 8, 9, 8 + header // 2, 8 + header, len(whole) // 2, len(whole) - 1}:
        yield f"the first {end} bytes", whole[:end]
    yield "more bytes", whole + b"\0"
    for length in (0, 1, header - 1, header + 1, 2**31, 2**63, 2**64 - 1):
        yield f"a header of {length} bytes", length.to_bytes(8, "little") + whole[8:]
    yield "wrong encoding", whole[:8] + whole[8 : 8 + header].replace(b"pymulti", b"pym\xfclti") + whole[8 + header :]
    yield "UTF-16", whole[8 : 8 + header].decode().encode("utf-16")
    yield "compressed", gzip.compress(whole)
    yield "text", b"text\n"
    yield "JSON", b'{"format": "pymultiling.neurons/1"}'
    yield "a pickle with code", pickle.dumps(Code(folder / "executed"))
    torch.save({"ffn": torch.ones(3, 5)}, folder / "other")
    yield "a torch file", (folder / "other").read_bytes()
    numpy.save(folder / "other.npy", numpy.ones((3, 5)))
    yield "a numpy file", (folder / "other.npy").read_bytes()


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def require_refusal(form: Format, path: Path, what: str) -> None:
    """Loads a damaged file, and checks that the only error names the file in one printable line of usual length."""
    with pytest.raises(pml.CheckpointError) as refused:  # noqa: PT012 - the message says which damage
        form.load(path)
        pytest.fail(f"it loads: {what}")
    message = str(refused.value)
    assert str(path) in message and message.isprintable() and len(message) < 900 + len(str(path)), what


@pytest.mark.parametrize("name", FORMATS)
def test_no_damaged_file_loads(tmp_path, name):
    form, path = FORMATS[name], tmp_path / "a.safetensors"
    form.save(path)
    loaded = form.load(path)
    if isinstance(loaded, pml.NeuronTuning):
        loaded.remove()
    whole, tensors, metadata = path.read_bytes(), load_file(path), read_metadata(path)
    tensors = {key: value.clone() for key, value in tensors.items()}
    count = 0
    for what, fields in damaged_metadata(metadata, form.counts):
        write(path, tensors, fields)
        require_refusal(form, path, what)
        count += 1
    for what, changed in damaged_tensors(tensors, form.values):
        write(path, changed, metadata)
        require_refusal(form, path, what)
        count += 1
    for what, content in damaged_bytes(whole, tmp_path):
        path.write_bytes(content)
        require_refusal(form, path, what)
        count += 1
    assert count > 60 and not (tmp_path / "executed").exists()
    path.unlink()
    require_refusal(form, path, "no file")
    path.mkdir()
    require_refusal(form, path, "a folder")


@pytest.mark.parametrize("name", FORMATS)
def test_earlier_files_which_do_not_count_their_tensors_load(tmp_path, name):
    form, path = FORMATS[name], tmp_path / "a.safetensors"
    form.save(path)
    tensors = {key: value.clone() for key, value in load_file(path).items()}
    write(path, tensors, {key: value for key, value in read_metadata(path).items() if key != TENSOR_COUNT})
    loaded = form.load(path)
    if isinstance(loaded, pml.NeuronTuning):
        loaded.remove()


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_another_format_is_named(tmp_path, name):
    path = tmp_path / "a.safetensors"
    for form in FORMATS.values():
        if FORMATS[name].load != form.load:
            form.save(path)
            with pytest.raises(pml.CheckpointError, match=r"a.safetensors is pymultiling\.[a-z]+/1; expected "):
                FORMATS[name].load(path)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "tuning"])
@given(data=st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_in_the_header_are_refused_or_change_nothing(tmp_path, name, data):
    """The header has names, dtypes, shapes and metadata. A change of a space or of a free text is not a damage."""
    form, path = FORMATS[name], tmp_path / "a.safetensors"
    form.save(path)
    whole = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, 8 + int.from_bytes(whole[:8], "little") - 1))
    whole[place] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    with suppress(pml.CheckpointError):
        form.load(path)


def test_a_file_of_400_000_tensors_is_refused_before_they_are_read(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    names = [f"t{number}" for number in range(400_000)]
    entries = {name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for name in names}
    metadata = {METADATA: json.dumps({"format": "pymultiling.neurons/1"})}
    header = json.dumps({"__metadata__": metadata, **entries}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    monkeypatch.setattr(TensorFile, "read", lambda *_: pytest.fail("its tensors were read"))
    with pytest.raises(pml.CheckpointError, match="has 400,000 tensors, and no file of this library has so many"):
        pml.NeuronSet.load(path)


def test_a_difference_of_counts_that_is_out_of_range_by_rounding_is_kept(tmp_path):
    a = pml.ActivationStatistics(torch.tensor([[5, 3]]), 5)
    b = pml.ActivationStatistics(torch.tensor([[1, 4]]), 2)
    (a - b).save(tmp_path / "a.safetensors", language="fr")
    loaded = pml.ActivationStatistics.load(tmp_path / "a.safetensors")
    assert loaded.active.tolist() == [[4, -1]] and loaded.tokens == 3


def test_messages_say_what_is_wrong_and_what_to_do(tmp_path):
    path = tmp_path / "a.safetensors"
    make_statistics().save(path)
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    metadata = read_metadata(path)
    cases = [
        ({**tensors, "minimum.q": tensors["minimum.q"][:, :3]}, {}, r"'minimum.q' has the shape \(3, 3\), expected \("),
        ({**tensors, "votes.q": tensors["votes.q"] + 2}, {}, "'votes.q' has the value ., the largest .* is 2; create"),
        ({**tensors, "sum.ffn": tensors["sum.ffn"] * NAN}, {}, "'sum.ffn' has NaN; create it again"),
        ({**tensors, "sum.ffn": tensors["sum.ffn"].float()}, {}, "'sum.ffn' must be F64, got F32"),
        (tensors, {"documents": "-2"}, "'documents' in its metadata must be a whole number of at least 0, got '-2'"),
        (tensors, {"documents": "0"}, "0 documents cannot have 9 tokens"),
        (tensors, {"documents": "10"}, "10 documents cannot have 9 tokens"),
    ]
    for changed, fields, message in cases:
        write(path, changed, {**metadata, **fields})
        with pytest.raises(pml.CheckpointError, match=f"^{re.escape(str(path))} is damaged: .*{message}"):
            pml.NeuronStatistics.load(path)


def test_equal_results_give_files_of_equal_bytes(tmp_path):
    """Two runs of the same call; `save` in another order of the metadata."""
    for name, form in FORMATS.items():
        if name in ("statistics", "rows"):
            continue  # made from random numbers; below
        for copy in ("a", "b"):
            form.save(tmp_path / copy)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes(), name
    statistics = make_statistics()
    for copy in ("a", "b"):
        sites = dict(reversed(statistics.sum.items())) if copy == "b" else statistics.sum
        replace(statistics, sum=sites).save(tmp_path / copy)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    make_set().save(tmp_path / "a", language="fr", model="m")
    make_set().save(tmp_path / "b", model="m", language="fr")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
