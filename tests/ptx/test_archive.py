"""Kernels that are kept as PTX: what makes them invalid, and that they survive being written and read."""

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from tests.ptx import archive
from tests.ptx.archive import Compiled, Specialization

SPECIALIZATION = Specialization(
    module="column_energy",
    function="kernel",
    signature=(("x", "*bf16"), ("tokens", "i32"), ("ACTIVE", "constexpr")),
    constants=((2, True), (3, None)),
    attributes=((0, [["tt.divisibility", 16]]),),
    options=(("num_warps", 4), ("num_stages", 3), ("enable_fp_fusion", True), ("maxnreg", None)),
)


def test_what_is_written_is_read(tmp_path):
    compiled = Compiled("ret;", shared=128, warps=4)
    path = tmp_path / "folder" / "kernels.zip"
    archive.write(path, {SPECIALIZATION.key: (SPECIALIZATION, compiled)})
    assert archive.read(path) == {SPECIALIZATION.key: (SPECIALIZATION, compiled)}
    first = path.read_bytes()
    archive.write(path, archive.read(path))
    assert path.read_bytes() == first


def test_a_specialisation_in_several_files_is_known_once(tmp_path, monkeypatch):
    compiled = Compiled("ret;", shared=0, warps=4)
    monkeypatch.setattr(archive, "FOLDER", tmp_path)
    for version in ("3.6.0", "3.9.0"):
        path = archive.path_of(version, "sm_90")
        archive.write(path, {SPECIALIZATION.key: (SPECIALIZATION, compiled)})
    assert list(archive.known_specializations()) == [SPECIALIZATION]


def test_a_file_that_is_not_there_is_empty(tmp_path):
    assert archive.read(tmp_path / "nothing.zip") == {}


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """Yields a folder with a copy of the kernels, in which the archive looks for their source code."""
    for file in archive.KERNELS.glob("*.py"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(archive, "KERNELS", tmp_path)
    archive.source_hash.cache_clear()
    yield tmp_path
    archive.source_hash.cache_clear()


def key_after(file, before, after):
    """Returns the key after a change of a file."""
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    archive.source_hash.cache_clear()
    return SPECIALIZATION.key


@pytest.mark.parametrize(
    "file, before, after",
    [
        ("columns", "values * values", "values + values"),
        ("columns", "SPAN = 4096", "SPAN = 2048"),
        ("columns", 'do_not_specialize=["tokens", "count"]', 'do_not_specialize=["tokens"]'),
        ("documents", "t = first + i", "t = first - i"),
    ],
)
def test_a_change_of_what_is_compiled_changes_the_key(kernels, file, before, after):
    """column_energy imports columns, and columns imports documents."""
    old = SPECIALIZATION.key
    assert key_after(kernels / f"{file}.py", before, after) != old


@pytest.mark.parametrize(
    "file, before, after",
    [
        ("columns", "# rows of a tile of which a thread holds 16 bytes", "# rows of a tile"),
        ("documents", "Returns the document's tokens number i", "Returns the tokens number i"),
        ("columns", "sums = torch.empty(", "sums = torch.zeros("),
        ("variant", "def short_name", "def name_of_dtype"),
        ("gated_ffn", "product *= linear", "product += linear"),
    ],
)
def test_a_change_of_what_is_not_compiled_keeps_the_key(kernels, file, before, after):
    old = SPECIALIZATION.key
    assert key_after(kernels / f"{file}.py", before, after) == old
