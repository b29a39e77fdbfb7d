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
    options=(("num_warps", 4), ("num_stages", 3), ("enable_fp_fusion", True)),
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


@pytest.mark.parametrize("changed", ["column_energy.py", "columns.py", "documents.py", "variant.py"])
def test_a_change_of_a_source_file_of_a_kernel_changes_its_key(tmp_path, monkeypatch, changed):
    """column_energy imports columns and variant, and columns imports documents."""
    for file in archive.KERNELS.glob("*.py"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    before = SPECIALIZATION.key
    monkeypatch.setattr(archive, "KERNELS", tmp_path)
    archive.source_hash.cache_clear()
    assert before == SPECIALIZATION.key
    archive.source_hash.cache_clear()
    (tmp_path / "gated_ffn.py").write_text("another kernel")
    assert before == SPECIALIZATION.key
    archive.source_hash.cache_clear()
    (tmp_path / changed).write_text((tmp_path / changed).read_text() + "# a change")
    assert before != SPECIALIZATION.key
    archive.source_hash.cache_clear()
