"""Kills `pymultiling detect` at random moments, as benchmarks/endurance/survival.py does with large corpora."""

import pytest

from tests.support.programs import run_module


@pytest.mark.long
def test_five_killed_runs_resume_to_the_same_result(tmp_path):
    options = ["--work", tmp_path, "--languages", "tr", "hi", "--kills", 5, "--seconds", 0.2]
    done = run_module("benchmarks.endurance.survival", *options, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 of 5 ended with the same result" in done.stdout
    assert done.stdout.count("killed at") >= 3  # the others had ended before they were to be killed
