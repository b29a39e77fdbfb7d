"""A part with a row that cannot be measured, and another one."""

from tests.support.failing_parts import succeeds


def measure(rows, workload, device):
    rows.add("made up", {"part": "raises"}, lambda: 1 / 0)
    succeeds.measure(rows, workload, device)
