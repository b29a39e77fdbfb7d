"""Models that transformers spreads over two processes (tp_plan="auto") give what they give whole."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("spread_program.py")
# Norms over heads and behind sublayers, soft caps, fused projections that are gathered and such that are not, plain FFNs, norms over
# all heads.
NAMES = ("llama", "qwen3", "gemma2", "phi3", "gpt_neox", "olmo2")


def test_a_model_in_two_processes_is_the_model(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launcher, str(PROGRAM), str(tmp_path), *NAMES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        for rank in (0, 1):
            assert f"{name}: agrees in process {rank}" in done.stdout
