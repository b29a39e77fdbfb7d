"""Tensor-parallel models (tp_plan="auto") in two processes give the same results as the whole models."""

import pytest

from tests.support.programs import run_module, torchrun

pytestmark = pytest.mark.long

# They have norms over a head, over all heads and of sublayer outputs, soft caps, plain FFNs, and fused projections
# whose outputs are gathered or not.
NAMES = ("llama", "qwen3", "gemma2", "phi3", "gpt_neox", "olmo2")


def test_a_model_in_two_processes_gives_the_results_of_the_whole_model(tmp_path):
    launcher = torchrun("--nproc-per-node", "2")
    result = run_module(
        "tests.support.tensor_parallel_program", tmp_path, *NAMES, launcher=launcher, timeout=300, OMP_NUM_THREADS="1"
    )
    assert result.returncode == 0, result.stderr
    for name in NAMES:
        for rank in (0, 1):
            assert f"{name}: agrees in process {rank}" in result.stdout
