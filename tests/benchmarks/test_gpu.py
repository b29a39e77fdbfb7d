"""Runs the GPU benchmarks with tiny sizes on the CPU."""

import json

import pytest

from tests.support.programs import run_module

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """The printed output of a run, and its results file."""
    out = tmp_path_factory.mktemp("gpu") / "results.json"
    completed = run_module("benchmarks.gpu.run", "--quick", "--device", "cpu", "--out", out)
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    return completed.stdout, json.loads(out.read_text())


def test_the_results_file_has_all_tables_and_columns(trial):
    _, results = trial
    assert not results["did not run"]
    assert {"device", "torch", "transformers", "python", "commit", "date"} <= results["environment"].keys()
    assert results["workload"]["shape"]["hidden"] and results["workload"]["documents"]
    for table, columns in {
        "ceilings": {"ceiling", "a second"},
        "operators": {
            "operator",
            "size",
            "backend",
            "median ms",
            "p10 ms",
            "p90 ms",
            "bytes",
            "of copy rate",
            "launches",
        },
        "q and k": {"times faster"},
        "model, memory": {"run"},
        "model, times": {"run", "median ms", "p10 ms", "p90 ms", "times forward", "launches"},
        "errors": {"operator", "input", "dtype", "error", "plain PyTorch", "within budget"},
        "targets": {"target", "bound", "measured", "met"},
    }.items():
        # On the CPU all rows of some tables are skipped. For these tables only columns that identify a row are listed
        # above, which skipped rows have too.
        rows = [row for row in results[table] if "skipped" not in row] or results[table]
        assert any(columns <= row.keys() for row in rows), table


def test_all_errors_are_within_their_budget(trial):
    """None is the value of estimates, which have no error budget."""
    _, results = trial
    assert all(row["within budget"] in (True, None) for row in results["errors"] if "skipped" not in row)


def test_prints_every_row_and_the_targets_last(trial):
    printed, results = trial
    targets = printed.rpartition("\ntargets")[2]
    assert all(row["target"] in targets and row["bound"] in targets for row in results["targets"])
    assert all(row["run"] in printed for row in results["model, times"])
