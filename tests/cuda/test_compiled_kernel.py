"""The kernel compiled for GPUs that are not here: registers, what fits on a multiprocessor, instructions."""

import re
import shutil
import subprocess
from dataclasses import dataclass

import pytest

from benchmarks.machine_code import sass as machine_code
from benchmarks.machine_code.chips import CHIPS
from benchmarks.machine_code.sweep_bound import SPECIAL
from tests.cuda.emulated import CSRC

cubin = pytest.importorskip("benchmarks.machine_code.cubin", reason="no Triton, which brings the disassembler")

NVCC = shutil.which("nvcc")
pytestmark = [pytest.mark.long, pytest.mark.skipif(NVCC is None, reason="no nvcc")]

THREADS, BLOCKS = 256, 2  # of a block; resident on a multiprocessor
SITES, ROWS, KEYS, SETS = 4, 16, 16, 2  # of a straight piece of the sweep: half a group of keys
PIECE = SITES * ROWS * KEYS // 32  # elements of a lane, of one set
THREE, FOUR = 3 * PIECE // SITES, PIECE  # exponentials of a piece

# Instructions an element. 5.25 of them are exponentials, v, m, b1 and b2; the others make t and fetch a key's words and
# probabilities. The loop around adds what it asks for and branches.
MOST_ISSUED = 6.1
MOST_REGISTERS = 128


@dataclass(frozen=True)
class Compiled:
    code: list
    registers: int
    shared: int


@pytest.fixture(scope="module", params=["sm_80", "sm_90"])
def compiled(request, tmp_path_factory) -> Compiled:
    out = tmp_path_factory.mktemp("cuda") / "kernel.cubin"
    command = [NVCC, "-std=c++20", "-O3", "-cubin", f"-arch={request.param}", "-Xptxas=-v", "-o", str(out)]
    told = subprocess.run(
        [*command, str(CSRC / "qk_importance_kernel.cu")], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert "warning" not in told.stderr
    registers = int(re.search(r"Used (\d+) registers", told.stderr)[1])
    return Compiled(machine_code.parse(cubin.disassemble(out.read_bytes())), registers, shared_bytes(request.param))


def shared_bytes(chip: str) -> int:
    """Of a block, asked of the compiler."""
    source = '#include "qk_importance.cuh"\ntemplate <int> struct Bytes; Bytes<sizeof(pymultiling::Shared)> bytes;'
    command = [NVCC, "-std=c++20", f"-arch={chip}", f"-I{CSRC}", "-x", "cu", "-cubin", "-o", "/dev/null", "-"]
    told = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    return int(re.search(r"Bytes<(\d+)", told.stderr)[1])


def pieces(code: list) -> list[list]:
    """The sweep's straight code: three or four exponentials for four sites, two sets, the halves of a group of keys."""
    loop = max(machine_code.innermost_loops(code), key=lambda loop: machine_code.count_classes(loop)["ex2"])
    found = [[]]
    for instruction in loop:
        found[-1].append(instruction)
        if instruction.opcode.startswith("BRA"):
            found.append([])
    return [piece for piece in found if machine_code.count_classes(piece)["ex2"] >= THREE]


def test_two_blocks_are_resident(compiled):
    assert compiled.registers <= MOST_REGISTERS
    for name in ("sm_80", "sm_90"):
        assert CHIPS[name].resident_warps(compiled.registers, compiled.shared, THREADS // 32) == BLOCKS * THREADS // 32


def test_instructions_of_the_sweep(compiled):
    found = pieces(compiled.code)
    assert sorted(machine_code.count_classes(piece)["ex2"] for piece in found) == [THREE] * 2 * SETS + [FOUR] * 2 * SETS
    assert not any(
        machine_code.count_classes(piece)["local"] + machine_code.count_classes(piece)["global"] for piece in found
    )
    three = [piece for piece in found if machine_code.count_classes(piece)["ex2"] == THREE]
    issued = sum(map(len, three)) / (len(three) * PIECE)
    print(f"{compiled.registers} registers, {issued:.2f} instructions an element")
    assert issued <= MOST_ISSUED
    assert SPECIAL * THREE / PIECE == 6.0


def test_little_of_a_tile_of_keys_is_not_the_sweep(compiled):
    """Around two groups of keys: fetching the next tile, a barrier, and which way the sets go."""
    loops = machine_code.find_loops(compiled.code)
    sweep = max(machine_code.innermost_loops(compiled.code), key=lambda loop: machine_code.count_classes(loop)["ex2"])
    tile = next(loop for loop in loops if loop[0].address < sweep[0].address and loop[-1].address > sweep[-1].address)
    assert len(tile) - len(sweep) <= 0.4 * 4 * SETS * PIECE
