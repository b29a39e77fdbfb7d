"""The contents of the sdist and of the wheel. They are built with torch hidden, so that nothing is compiled."""

import ast
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from fnmatch import fnmatch
from pathlib import Path

import pytest

import pymultiling as pml

ROOT = Path(__file__).parents[1]
IGNORED = (".*", "build", "dist", "demo", "*.egg-info", "*.so", "*.torch", "__pycache__")
BUILD = """
import sys
sys.modules["torch"] = None
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def build(kind: str, source: Path, out: Path) -> Path:
    """Builds the "sdist" or "wheel" of a source tree, and returns its file."""
    command = [sys.executable, "-W", "ignore", "-c", BUILD, f"build_{kind}", out]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The sdist of a copy of the source tree, unpacked."""
    source, out = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("sdist")
    source.mkdir()
    for folder in ("pymultiling", "triton_kernels", "csrc", "tests", "benchmarks"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns(*IGNORED))
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copyfile(file, source / file.name)
    archive = build("sdist", source, out)
    with tarfile.open(archive) as file:
        file.extractall(out, filter="data")
    return out / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> zipfile.ZipFile:
    """The wheel, built from the files of the sdist only."""
    return zipfile.ZipFile(build("wheel", sdist, tmp_path_factory.mktemp("wheel")))


def names_in(folder: Path, *patterns: str) -> set[str]:
    """Returns the files below a folder as paths that begin with the folder's name, such as "csrc/cpu/masks.h".

    Built and cached files (IGNORED) are left out, and files that match none of the patterns. Without patterns all files
    are returned. "*" in a pattern also matches "/".
    """
    names = {path.relative_to(folder.parent).as_posix() for path in folder.rglob("*") if path.is_file()}
    names = {
        name for name in names if not any(fnmatch(part, pattern) for part in name.split("/") for pattern in IGNORED)
    }
    return {name for name in names if not patterns or any(fnmatch(name, pattern) for pattern in patterns)}


def test_the_wheel_has_exactly_the_files_of_the_package(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = {name for name in names_in(ROOT / "pymultiling") if "/training/" not in name}
    kernels = {f"pymultiling/{name}" for name in names_in(ROOT / "triton_kernels", "*.py")}
    assert names == package | kernels
    for name in (
        "pymultiling/__init__.pyi",
        "pymultiling/py.typed",
        "pymultiling/data/languages.json",
        "pymultiling/demo_model/README.md",
        "pymultiling/demo_model/model/model.safetensors",
        "pymultiling/demo_model/text/en.txt.gz",
        "pymultiling/methods/pmi/templates/translation.json",
        "pymultiling/triton_kernels/__init__.py",
    ):
        assert name in names


def test_neither_the_wheel_nor_the_sdist_has_tests_benchmarks_or_training(wheel, sdist):
    assert {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name} == {"pymultiling"}
    for names in (set(wheel.namelist()), names_in(sdist)):
        assert not [name for name in names if {"tests", "training", "benchmarks"} & set(name.split("/"))]


def test_the_sdist_has_the_sources_that_are_compiled(sdist):
    names = {name.partition("/")[2] for name in names_in(sdist)}
    assert names_in(ROOT / "csrc", "*.cpp", "*.h", "*.cu", "*.cuh") <= names
    assert {"setup.py", "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md"} <= names


def test_the_metadata_of_the_wheel_is_that_of_pyproject(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["Name"] == "pymultiling" and metadata["Version"] == pml.__version__
    assert metadata["License-Expression"] == PROJECT["license"] and metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "pymultiling = pymultiling.cli:main" in wheel.read(entry).decode()


def test_versions_that_are_named_twice_agree():
    citation = (ROOT / "CITATION.cff").read_text("utf-8").splitlines()
    assert f"version: {pml.__version__}" in citation
    assert {f"title: {PROJECT['name']}", f"abstract: {PROJECT['description']}."} <= set(citation)
    pinned = next(line for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines() if "torch==" in line)
    wheels = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["cibuildwheel"]
    assert wheels["test-requires"] == [pinned] and pinned in wheels["before-build"].split()


def stub_names() -> list[str]:
    """Returns the names that the stub defines by imports, assignments and annotations."""
    names = []
    for node in ast.parse(Path(pml.__file__).with_suffix(".pyi").read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            assert all(
                alias.name == alias.asname for alias in node.names
            )  # a stub exports only names that are imported as themselves
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets]
        elif isinstance(node, ast.AnnAssign):
            names.append(node.target.id)
    return names


def test_the_stub_and_the_package_have_the_same_names():
    names = stub_names()
    assert len(names) == len(set(names))
    assert set(names) == {*pml.__all__, "embedded"}  # a former name that is not listed
    assert "embedded" not in pml.__all__
    assert len(pml.__all__) == len(set(pml.__all__))


@pytest.mark.parametrize("name", stub_names())
def test_every_name_of_the_stub_loads(name):
    assert getattr(pml, name) is not None


def test_unknown_names_do_not_load_and_the_former_name_does():
    with pytest.raises(AttributeError, match="nothing"):
        pml.nothing
    assert pml.embedded is pml.demo_model
