"""Checks the kernel compiled for sm_80 and sm_90: registers, resident blocks and instructions. No GPU is needed."""

import re
import shutil
import subprocess
from dataclasses import dataclass

import pytest

from benchmarks.machine_code import sass as machine_code
from benchmarks.machine_code.chips import CHIPS
from tests.cuda.emulated import CSRC

cubin = pytest.importorskip(
    "benchmarks.machine_code.cubin", reason="Triton, which contains the disassembler, is not installed"
)
phases = pytest.importorskip("benchmarks.machine_code.phases", reason="Triton is not installed")

NVCC = shutil.which("nvcc")
pytestmark = [pytest.mark.long, pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")]

THREADS, BLOCKS = 256, 2  # threads per block, resident blocks per multiprocessor
SITES, ROWS, KEYS, SETS = 4, 16, 16, 2  # of a branch-free piece of the sweep: half a group of keys
PIECE = SITES * ROWS * KEYS // 32  # elements of a piece per lane and query set
THREE, FOUR = 3 * PIECE // SITES, PIECE  # exponentials of a piece

# Instructions per element. 5.25 of them are for exponentials, v, m, b1 and b2. The others compute t and load a key's
# words and probabilities. The loop around the pieces adds loads and branches.
MAX_ISSUED = 6.1
MAX_REGISTERS = 128


@dataclass(frozen=True)
class CompiledKernel:
    code: list[machine_code.Instruction]
    registers: int  # per thread
    shared: int  # bytes per block


@pytest.fixture(scope="module", params=["sm_80", "sm_90"])
def compiled(request, tmp_path_factory) -> CompiledKernel:
    out = tmp_path_factory.mktemp("cuda") / "kernel.cubin"
    command = [NVCC, "-std=c++20", "-O3", "-cubin", f"-arch={request.param}", "-Xptxas=-v", "-o", str(out)]
    completed = subprocess.run(
        [*command, str(CSRC / "qk_importance_kernel.cu")], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    assert "warning" not in completed.stderr
    registers = int(re.search(r"Used (\d+) registers", completed.stderr)[1])
    return CompiledKernel(
        machine_code.parse(cubin.disassemble(out.read_bytes())), registers, shared_bytes(request.param)
    )


def shared_bytes(chip: str) -> int:
    """Returns the bytes of shared memory of a block, read from an error message of the compiler."""
    source = '#include "qk_importance.cuh"\ntemplate <int> struct Bytes; Bytes<sizeof(pymultiling::Shared)> bytes;'
    command = [NVCC, "-std=c++20", f"-arch={chip}", f"-I{CSRC}", "-x", "cu", "-cubin", "-o", "/dev/null", "-"]
    completed = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    return int(re.search(r"Bytes<(\d+)", completed.stderr)[1])


def sweep_pieces(code: list[machine_code.Instruction]) -> list[list[machine_code.Instruction]]:
    """Returns the branch-free pieces of the sweep.

    There is one for three and one for four exponentials, each for two query sets and both halves of a group of keys.
    """
    loop = max(machine_code.innermost_loops(code), key=lambda loop: machine_code.count_classes(loop)["ex2"])
    pieces: list[list[machine_code.Instruction]] = [[]]
    for instruction in loop:
        pieces[-1].append(instruction)
        if instruction.opcode.startswith("BRA"):
            pieces.append([])
    return [piece for piece in pieces if machine_code.count_classes(piece)["ex2"] >= THREE]


def test_two_blocks_are_resident_on_a_multiprocessor(compiled):
    assert compiled.registers <= MAX_REGISTERS
    for name in ("sm_80", "sm_90"):
        assert CHIPS[name].resident_warps(compiled.registers, compiled.shared, THREADS // 32) == BLOCKS * THREADS // 32


def test_the_sweep_issues_few_instructions_and_reads_no_global_memory(compiled):
    pieces = sweep_pieces(compiled.code)
    assert (
        sorted(machine_code.count_classes(piece)["ex2"] for piece in pieces) == [THREE] * 2 * SETS + [FOUR] * 2 * SETS
    )
    assert not any(
        machine_code.count_classes(piece)["local"] + machine_code.count_classes(piece)["global"] for piece in pieces
    )
    three = [piece for piece in pieces if machine_code.count_classes(piece)["ex2"] == THREE]
    issued = sum(map(len, three)) / (len(three) * PIECE)
    print(f"{compiled.registers} registers, {issued:.2f} instructions per element")
    assert issued <= MAX_ISSUED


def test_the_simulated_sweep_consists_of_the_pieces_with_three_exponentials(compiled):
    sweep, elements = phases.cuda_sweep(compiled.code)
    assert elements == 2 * SETS * PIECE
    assert machine_code.count_classes(sweep)["ex2"] == 2 * SETS * THREE


def test_the_loop_over_tiles_of_keys_adds_few_instructions(compiled):
    """The loop contains the sweep over two groups of keys, the copies of the next tile, a barrier and branches."""
    loops = machine_code.find_loops(compiled.code)
    sweep = max(machine_code.innermost_loops(compiled.code), key=lambda loop: machine_code.count_classes(loop)["ex2"])
    tile = next(loop for loop in loops if loop[0].address < sweep[0].address and loop[-1].address > sweep[-1].address)
    assert len(tile) - len(sweep) <= 0.4 * 4 * SETS * PIECE
