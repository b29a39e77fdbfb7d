"""Models that transformers spreads over two processes (tp_plan="auto") give what they give whole."""

import pytest

from tests.support.programs import run_module, torchrun

pytestmark = pytest.mark.long

# Norms over heads and behind sublayers, soft caps, fused projections that are gathered and such that are not, plain FFNs, norms over
# all heads.
NAMES = ("llama", "qwen3", "gemma2", "phi3", "gpt_neox", "olmo2")


def test_a_model_in_two_processes_is_the_model(tmp_path):
    two = torchrun("--nproc-per-node", "2")
    done = run_module("tests.support.spread_program", tmp_path, *NAMES, launcher=two, timeout=300, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        for rank in (0, 1):
            assert f"{name}: agrees in process {rank}" in done.stdout
