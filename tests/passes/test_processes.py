"""A pass in several processes, one of which may die, gives the result of one process."""

import subprocess
from pathlib import Path

import pytest
import torch

import pymultiling as pml
from tests.support.programs import run_module, torchrun
from tests.support.tiny_text import LANGUAGES, texts, write_text

pytestmark = pytest.mark.long


def run(folder: Path, *launcher: str, how: str = "living") -> subprocess.CompletedProcess:
    """Runs the program on two corpora, one of which has fewer texts than a process's share.

    how: what goes wrong, as in pass_program; "living": nothing.
    """
    for language, count in zip(LANGUAGES, (120, 7)):
        write_text(folder / f"{language}.txt", texts(language, [3 + number % 9 for number in range(count)]))
    return run_module("tests.support.pass_program", folder, how, launcher=launcher, timeout=300, OMP_NUM_THREADS="1")


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return folder / "process-alone"


@pytest.mark.parametrize("count, how", [(2, "dying"), (3, "living")])
def test_every_process_has_the_result_of_a_single_process(tmp_path, truth, count, how):
    done = run(tmp_path, *torchrun("--nproc-per-node", str(count), "--max-restarts", "1"), how=how)
    assert done.returncode == 0, done.stderr
    assert ("exitcode: -9" in done.stderr) == (how == "dying")
    for rank in range(count):
        for path in truth.iterdir():
            file_of_process = tmp_path / f"process-{rank}" / path.name
            if path.suffix == ".neurons":
                assert pml.NeuronSet.load(file_of_process) == pml.NeuronSet.load(path)
            elif path.suffix == ".counts":
                counts, expected = (pml.ActivationStatistics.load(file) for file in (file_of_process, path))
                assert counts.tokens == expected.tokens and torch.equal(counts.active, expected.active)
            elif path.suffix == ".statistics":
                assert_same(*(pml.NeuronStatistics.load(file) for file in (file_of_process, path)))
            else:
                assert file_of_process.read_text() == path.read_text()
    # Only the first process prints its progress: a line at the end of each corpus, in each attempt that gets there.
    printed = [line for line in done.stderr.splitlines() if "measuring" in line and "documents" in line]
    attempts = 2 if how == "dying" else 1
    assert len(printed) <= attempts * len(LANGUAGES) and all(f"process 1 of {count}" in line for line in printed)


def test_streamed_parquet_files_after_a_map_give_the_result_of_one_process(tmp_path):
    pytest.importorskip("datasets")
    for folder, launcher in ((tmp_path / "one", []), (tmp_path / "two", torchrun("--nproc-per-node", "2"))):
        folder.mkdir()
        done = run(folder, *launcher, how="streamed")
        assert done.returncode == 0, done.stderr
    for language, documents in zip(LANGUAGES, (120, 7)):
        files = [tmp_path / folder / f"{language}.statistics" for folder in ("one/process-alone", "two/process-1")]
        alone, of_two = map(pml.NeuronStatistics.load, files)
        assert alone.documents == documents
        assert_same(of_two, alone)


def test_the_first_process_decides_by_its_memory_and_the_checkpoint_keeps_the_number(tmp_path):
    """32 tokens fit in the first process and 128 in the second; after a restart 256 fit in the first."""
    done = run(tmp_path, *torchrun("--nproc-per-node", "2", "--max-restarts", "1"), how="by memory")
    assert done.returncode == 0 and "exitcode: -9" in done.stderr, done.stderr
    for rank in range(2):
        forwards = [int(line) for line in (tmp_path / f"forwards-{rank}").read_text().split()]
        assert len(forwards) > 4 and 16 < max(forwards) <= 32
    for language in LANGUAGES:
        of_processes = [pml.NeuronSet.load(tmp_path / f"process-{rank}" / f"{language}.neurons") for rank in range(2)]
        assert of_processes[0] == of_processes[1]


@pytest.mark.parametrize(
    "how, words",
    [
        ("other call", "the same call, with whole corpora: max_length of process 1: 20, of process 2: 30"),
        ("other files", "the same call, with whole corpora: texts of 'de' of process 1: "),
        ("failing", "ProcessLost: another process has ended before its work was done: its output says why"),
        ("other texts", "corpus 'de' is not the same in all processes: give each process the whole corpus"),
    ],
)
def test_processes_that_do_not_do_the_same_fail_with_the_difference(tmp_path, how, words):
    done = run(tmp_path, *torchrun("--nproc-per-node", "2"), how=how)
    assert done.returncode != 0 and words in done.stderr and not list(tmp_path.glob("process-*"))


def assert_same(result: pml.NeuronStatistics, truth: pml.NeuronStatistics) -> None:
    """Compares votes, ranks and minima bit for bit, and sums to rounding, since processes add in another order."""
    assert (result.documents, result.tokens) == (truth.documents, truth.tokens)
    for site in pml.SITES:
        assert torch.equal(result.minimum[site], truth.minimum[site])
        assert torch.equal(result.votes[site], truth.votes[site])
        assert torch.equal(result.top[site], truth.top[site])
        torch.testing.assert_close(result.sum[site], truth.sum[site], rtol=1e-12, atol=0)


def test_a_single_process_is_the_first():
    from pymultiling.runtime.processes import Processes, is_first_process, processes

    with processes() as team:
        assert team == Processes(0, 1) and team.first and is_first_process()
    values = torch.tensor([1.0, 2.0])
    assert team.total(values) is values and team.least(values) is values
