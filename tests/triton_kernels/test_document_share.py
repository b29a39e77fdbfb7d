"""How many of gated_ffn's executed instructions find the tokens of the documents."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from benchmarks.machine_code.document_share import source_lines

ROOT = Path(__file__).parents[2]
LARGEST_SHARE = 5.0  # percent, for documents of 40 tokens that lie side by side
LISTING = """
.text.kernel:
	//## File "/a/kernels.py", line 48
        /*0000*/                   LDC R1, c[0x0][0x28] ;
	//## File "/a/documents.py", line 30 inlined at "/a/kernels.py", line 82
	//## File "/a/kernels.py", line 82
        /*0010*/                   LDG.E R5, desc[UR14][R2.64] ;
        /*0020*/              @!P0 LDG.E R4, desc[UR14][R2.64+0x4] ;
.L_x_1:
	//## File "/a/kernels.py", line 95
        /*0030*/                   EXIT ;
"""  # fmt: skip


def test_an_instruction_has_the_lines_of_the_comments_before_it():
    called = {("documents.py", 30), ("kernels.py", 82)}
    assert source_lines(LISTING) == {
        0x00: {("kernels.py", 48)},
        0x10: called,
        0x20: called,
        0x30: {("kernels.py", 95)},
    }


@pytest.mark.long
def test_few_instructions_find_tokens():
    """The script compiles the kernel, so it runs in a process of its own, where kernels are not interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.machine_code.document_share", "--documents", "100", "400"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    shares = {}
    for row in run.stdout.splitlines()[1:]:
        documents, tokens, *layout, instructions, finding, share = row.split()
        assert tokens == "40" and 0 < int(finding) < int(instructions)
        shares[documents, " ".join(layout)] = float(share)
    assert len(shares) == 6
    assert all(share <= LARGEST_SHARE for (_, layout), share in shares.items() if layout != "scattered"), run.stdout
    assert all(share <= 2 * LARGEST_SHARE for share in shares.values()), run.stdout
