"""Rehearses the GPU benchmark on the CPU, with tiny sizes and interpreted kernels."""

import json

import pytest

from benchmarks.gpu.parts import FIRST, SECOND
from tests.support.programs import run_module

pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = pytest.mark.long

TIMES = {"median ms", "p10 ms", "p90 ms"}
# {table: columns that a row has}. All rows of some tables are skipped without a GPU, and of these tables only columns
# are listed that identify a row.
TABLES = {
    "clocks": {"when"},
    "ceilings": {"ceiling", "a second"},
    "correctness": {"operator", "error", "within budget", "same bits twice", "launches"},
    "operators": {"operator", "size", "backend", *TIMES, "bytes", "of copy rate", "launches"},
    "q and k variants": {"variant", "size", "triton, ms"},
    "model, memory": {"run"},
    "model, times": {"run", "model", "batch", *TIMES, "times forward", "launches"},
    "detection": {"call"},
    "errors": {"operator", "input", "dtype", "error", "plain PyTorch", "within budget"},
    "counters": {"kernel"},
    "sanitizer": {"tool", "backend", "operators"},
    "targets": {"target", "bound", "measured", "met"},
}
SECOND_TABLES = {
    "q and k": {"times faster"},
    "operators": {"operator", "size", "backend", *TIMES},
    "SwiGLU": {"size"},
    "model, times": {"run", *TIMES, "times forward"},
    "tests": {"exit status", "passed"},
}


def rehearse(folder, *options: str):
    """Returns the printed output of a rehearsal, and its results file."""
    out = folder / "results.json"
    completed = run_module("benchmarks.gpu.run", "--rehearse", "--out", out, *options)
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    return completed.stdout, json.loads(out.read_text())


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return rehearse(tmp_path_factory.mktemp("gpu"))


def assert_has_rows(results, tables, parts):
    assert not results["did not run"]
    assert [row["part"] for row in results["parts"]] == [part.name for part in parts]
    for table, columns in tables.items():
        assert any(columns <= row.keys() for row in results[table]), table


def test_every_part_of_the_first_call_writes_its_rows(trial):
    _, results = trial
    assert {"device", "torch", "transformers", "python", "commit", "date"} <= results["environment"].keys()
    assert results["workload"]["shape"]["hidden"] and results["workload"]["documents"]
    assert_has_rows(results, TABLES, FIRST)


def test_every_part_of_the_second_call_writes_its_rows(tmp_path):
    assert_has_rows(rehearse(tmp_path, "--second")[1], SECOND_TABLES, SECOND)


def test_all_errors_are_within_their_budget(trial):
    """None is the value of estimates, which have no error budget."""
    _, results = trial
    rows = [row for row in results["errors"] + results["correctness"] if "skipped" not in row]
    assert rows and all(row["within budget"] in (True, None) for row in rows)


def test_prints_every_row_and_the_targets_last(trial):
    printed, results = trial
    targets = printed.rpartition("\ntargets")[2]
    assert all(row["target"] in targets and row["bound"] in targets for row in results["targets"])
    assert all(row["run"] in printed for row in results["model, times"])
