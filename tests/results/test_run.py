"""The record of a run, and hashes of its inputs."""

import hashlib
import json
import platform
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version

import pytest

import pymultiling as pml
from pymultiling.results.run import Run, file_hash, files_in, text_hash, versions


def test_the_record_has_arguments_facts_times_and_files(tmp_path):
    run = Run("test", {"model": "tiny", "out": tmp_path})
    with run.stage("load"):
        pass
    run.note(seed=3, rule="süß")
    (tmp_path / "part").mkdir()
    for name in ("part/b.csv", "a.csv"):
        (tmp_path / name).write_text("")
    run.write(tmp_path)
    text = (tmp_path / "run.json").read_text("utf-8")
    record = json.loads(text)
    assert text.endswith("}\n") and "süß" in text
    assert list(record) == ["command", "arguments", "started", "versions", "seed", "rule", "seconds", "files"]
    assert record["command"] == "test" and record["arguments"] == {"model": "tiny", "out": str(tmp_path)}
    assert record["seed"] == 3 and record["files"] == ["a.csv", "part/b.csv"]
    assert list(record["seconds"]) == ["load", "total"] and all(value >= 0 for value in record["seconds"].values())
    assert datetime.fromisoformat(record["started"]).tzinfo is not None


def test_versions_are_those_of_the_installed_packages():
    recorded = versions()
    assert recorded["pymultiling"] == pml.__version__ and recorded["python"] == platform.python_version()
    assert all(
        recorded[name] == version(name) for name in ("torch", "transformers", "tokenizers", "safetensors", "numpy")
    )


def test_hashes_of_a_file_and_of_its_lines_agree(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"ein\nun\n")
    digest = hashlib.sha256(b"ein\nun\n").hexdigest()
    assert file_hash(tmp_path / "a.txt") == text_hash(["ein", "un"]) == digest
    for name in ("b.txt", ""):
        with pytest.raises(pml.CorpusError, match=r": no such file; check the path$"):
            file_hash(tmp_path / name)


def test_files_in_lists_subfolders(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "c" / "d").write_text("")
    (tmp_path / "a").write_text("")
    assert files_in(tmp_path) == ["a", "b/c/d"]


def test_importing_folders_imports_neither_torch_nor_numpy():
    program = "import sys, pymultiling.results.folders; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
