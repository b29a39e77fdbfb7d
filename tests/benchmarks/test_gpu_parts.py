"""A part of the GPU benchmark that fails leaves the rows of the others."""

import json

import pytest

from benchmarks.gpu import run as gpu_run
from benchmarks.gpu.compile_kernels import seconds_on
from benchmarks.gpu.counters import read_counters
from benchmarks.gpu.detection import idle_time
from benchmarks.gpu.parts import Part
from benchmarks.gpu.rows import Rows

SECONDS = 30  # enough to import torch on a busy machine


def failing(name: str, seconds: float = SECONDS) -> Part:
    return Part(name, seconds, package="tests.support.failing_parts")


@pytest.fixture
def run_parts(tmp_path, monkeypatch):
    """Returns a function that runs parts and returns the contents of the results file."""
    monkeypatch.setattr(gpu_run, "REHEARSAL_FACTOR", 1)

    def run(*parts: Part, seconds: float = float("inf")) -> dict:
        results = gpu_run.Results(tmp_path / "results.json", rehearse=True)
        gpu_run.run_parts(parts, results, rehearse=True, seconds=seconds)
        results.write()
        return json.loads(results.out.read_text())

    return run


def test_a_part_that_dies_hangs_or_raises_leaves_the_rows_of_all(run_parts):
    names = ("dies", "hangs", "raises", "succeeds")
    results = run_parts(*(failing(name) for name in names))
    assert [row["part"] for row in results["parts"]] == list(names)
    complete = [row for row in results["made up"] if row.get("value") == 1]
    assert len(complete) == len(names)
    dies, hangs, raises = results["did not run"]
    assert dies == "part dies: exit status -9"
    assert hangs == f"part hangs: no end within {SECONDS} seconds"
    assert "ZeroDivisionError" in raises


def test_parts_for_which_no_time_is_left_are_named(run_parts):
    results = run_parts(failing("succeeds"), seconds=1)
    assert results["did not run"] == ["part succeeds: no time was left"]


def test_rows_of_two_processes_are_all_there(tmp_path):
    first, second = (Rows(tmp_path / "rows") for _ in range(2))
    first.add("a", {"number": 1}, dict)
    second.add("b", {"number": 2}, dict)
    assert first.read("b") == [{"table": "b", "number": 2}]


def test_idle_time_is_the_time_between_overlapping_events():
    """Busy from 0 to 30 and from 50 to 60 microseconds: two of the events overlap."""
    spans = ((50, 10), (0, 20), (10, 20))
    times = idle_time([{"ts": 1000.0 * start, "dur": 1000.0 * duration} for start, duration in spans])
    assert times["span ms"] == 60 and times["busy ms"] == 40
    assert times["idle share"] == round(1 / 3, 4) and times["longest gaps ms"] == [20]


def test_counters_of_every_kernel_that_are_numbers():
    output = """==PROF== Connected to process 1
"ID","Kernel Name","l1tex__t_sector_hit_rate.pct","sm__warps_active.avg.pct_of_peak_sustained_active","launch__x"
"","","%","%",""
"0","first","10.5","20","1"
"1","void at::native::fill","1","2","3"
"2","second","1,234.5","n/a","2"
==PROF== Disconnected
"""
    first, second = read_counters(output)
    hits, active = "l1tex__t_sector_hit_rate.pct", "sm__warps_active.avg.pct_of_peak_sustained_active"
    assert first == {"function": "first", hits: 10.5, active: 20}
    assert second == {"function": "second", hits: 1234.5}
    assert read_counters("==ERROR== no permission") == []


def test_jobs_start_in_order_on_the_first_free_core(monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.compile_kernels.START_SECONDS", 1.0)
    assert seconds_on(2, (5, 2, 2, 3)) == 1 + 2 + 2 + 3
