"""`pymultiling detect`, killed at random moments, as benchmarks/survival.py does it over large corpora."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "survival.py"


def test_five_runs_that_are_killed_end_with_the_same_result(tmp_path):
    command = [sys.executable, SCRIPT, "--work", tmp_path, "--languages", "tr", "hi"]
    command += ["--kills", "5", "--seconds", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 of 5 ended with the same result" in done.stdout
    assert done.stdout.count("killed at") >= 3  # the others' moment came after their end
