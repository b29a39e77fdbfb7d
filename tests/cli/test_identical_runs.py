"""Two identical runs write the same files, byte for byte, but for run.json and report.html, which have times."""

from pathlib import Path

import pytest

from pymultiling import demo_model
from tests.support.command_line import run
from tests.support.programs import run_module, torchrun
from tests.support.tiny_text import write_text

MODEL = Path(demo_model.__file__).parent / "model"
TIMED = ("run.json", "report.html")
OPTIONS = {
    "detect": ["--share", "0.7", "--sites", "ffn,q"],
    "count": [],
}


@pytest.fixture
def corpora(tmp_path) -> list[str]:
    heldout = demo_model.heldout()
    paths = {name: write_text(tmp_path / f"{name}.txt", heldout[name][:6]) for name in ("tr", "fr")}
    return [word for name, path in paths.items() for word in ("--corpus", f"{name}={path}")]


def command(name: str, corpora: list[str], out: Path) -> list[object]:
    return [name, "--model", MODEL, *corpora, *OPTIONS[name], "--max-length", 32, "--out", out]


def files_of(folder: Path) -> dict[str, bytes]:
    """Returns {path in the folder: content} of all files but run.json and the report."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name not in TIMED}


def assert_same_files(first: Path, second: Path) -> None:
    files, others = files_of(first), files_of(second)
    assert list(files) == list(others) and any(name.endswith(".safetensors") for name in files)
    assert [name for name in files if files[name] != others[name]] == []


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_in_a_fresh_folder_writes_the_same_bytes(tmp_path, corpora, name):
    for folder in ("first", "second"):
        assert run(*command(name, corpora, tmp_path / folder)) == 0
    assert_same_files(tmp_path / "first", tmp_path / "second")


@pytest.mark.long
@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_write_the_same_bytes_each_time(tmp_path, corpora, name):
    for folder in ("first", "second"):
        arguments = command(name, corpora, tmp_path / folder)
        launcher = torchrun("--nproc-per-node", "2")
        done = run_module("pymultiling", *arguments, launcher=launcher, timeout=300, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
    assert_same_files(tmp_path / "first", tmp_path / "second")


@pytest.mark.long
def test_two_processes_take_the_tokens_that_one_takes(tmp_path, corpora):
    """Both keep their state in --out, which the results replace."""
    arguments = [[*command("count", corpora, tmp_path / folder), "--tokens", 60] for folder in ("one", "two")]
    assert run(*arguments[0]) == 0
    launcher = torchrun("--nproc-per-node", "2")
    done = run_module("pymultiling", *arguments[1], launcher=launcher, timeout=300, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert " tokens were taken, of at most 60" in done.stderr
    assert list(files_of(tmp_path / "one")) == list(files_of(tmp_path / "two"))
    for file in (tmp_path / "one" / "counts").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / "counts" / file.name).read_bytes()
