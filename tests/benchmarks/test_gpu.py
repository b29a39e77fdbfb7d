"""The GPU benchmarks, tried with tiny sizes on the CPU."""

import json

import pytest

from tests.support.programs import run_module

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """What the script printed, and its results file."""
    out = tmp_path_factory.mktemp("gpu") / "results.json"
    done = run_module("benchmarks.gpu.run", "--quick", "--device", "cpu", "--out", out)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout, json.loads(out.read_text())


def test_results_file(trial):
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
        ran = [row for row in results[table] if "skipped" not in row] or results[table]
        assert any(columns <= row.keys() for row in ran), table
    assert all(row["within budget"] in (True, None) for row in results["errors"] if "skipped" not in row)


def test_prints_every_row_and_the_targets_last(trial):
    printed, results = trial
    last = printed.rpartition("\ntargets")[2]
    assert all(row["target"] in last and row["bound"] in last for row in results["targets"])
    assert all(row["run"] in printed for row in results["model, times"])
