"""The functional units of a scheduler (sub-partition) of an H100 or H200: how long an instruction keeps one busy.

A unit is busy with a warp instruction for the clocks given here, and cannot begin another one. Rates of arithmetic are
those of the CUDA C++ programming guide for compute capability 9.0 (table "arithmetic instructions"), divided by 4
schedulers. Rates of matrix products in bfloat16 are those of A100 for mma, and of H100 for wgmma. Latencies are rounded
from microbenchmarks (arXiv 1804.06826, 2208.11174 and 2402.13499). Nothing here was measured by this project.
"""

import re
from dataclasses import dataclass

from benchmarks.machine_code.sass import Instruction

# Clocks from the beginning in the unit to the result, by the beginning of the opcode. The first match decides.
LATENCIES = {
    "MUFU": 20,
    "LDG|LDL|LD\\b": 35,  # a hit in L1
    "LDS|LDSM|ATOMS": 30,
    "STG|STS|STL|ST\\b": 20,
    "ATOMG|RED": 260,
    "LDC|S2R|S2UR|R2UR": 30,
    "SHFL|REDUX|VOTE": 25,
    "HMMA": 24,
    "HGMMA": 40,
    "": 20,
}
# A barrier waits for the warps on other schedulers. Their distance is not simulated.
BARRIER = 30


@dataclass(frozen=True)
class Use:
    """What an instruction needs of the units.

    Attributes:
        unit: name of the unit, or None if only the issue of the instruction takes time.
        clocks: clocks for which the unit is busy.
        latency: clocks from the beginning in the unit to the result.
        is_queued: whether the instruction can wait in the unit's queue while the warp goes on.
    """

    unit: str | None
    clocks: int
    latency: int
    is_queued: bool


def use_of(instruction: Instruction) -> Use:
    """Returns what an instruction needs."""
    unit, clocks = _unit(instruction.opcode)
    latency = next(clocks for prefix, clocks in LATENCIES.items() if re.match(prefix, instruction.opcode))
    return Use(unit, clocks, latency, is_queued=unit in ("special", "memory", "tensor"))


def _unit(opcode: str) -> tuple[str | None, int]:
    """Returns the unit of an opcode, and the clocks for which the instruction keeps it busy."""
    base = opcode.split(".")[0]
    if base in ("MUFU", "F2F", "F2I", "I2F", "FRND", "POPC", "FLO"):
        return "special", 8  # 4 lanes per clock
    if base in ("FFMA", "FMUL", "FADD", "HFMA2", "HMUL2", "HADD2"):
        return "fma", 1  # 32 lanes
    if base == "IMAD":
        return "integer multiply", 2  # 16 lanes, half of those of fma
    if base == "HMMA":
        return "tensor", 4 if ".1688" in opcode else 8
    if base == "HGMMA":
        # A warp's share of 64 x N x 16 products at 512 per clock, or reading the 2 KiB of the left factor from shared
        # memory at 128 bytes per clock.
        columns = int(re.search(r"64x(\d+)x", opcode)[1])
        return "tensor", max(16, columns // 2)
    if re.match(r"(LD|ST|SHFL|ATOM|RED\b)", base) and base not in ("LDC", "LDGDEPBAR"):
        return "memory", 4 * _words(opcode)
    if base.startswith("U") or base in (
        "BRA", "NOP", "BAR", "DEPBAR", "LDGDEPBAR", "WARPSYNC", "WARPGROUP", "R2UR", "S2R", "S2UR", "CS2R", "LDC",
        "BSSY", "BSYNC", "EXIT", "MEMBAR", "FENCE", "ERRBAR", "CGAERRBAR", "CCTL", "CALL", "RET", "YIELD",
    ):  # fmt: skip
        return None, 1
    return "alu", 2  # 16 lanes


def _words(opcode: str) -> int:
    """Returns the 32-bit words that a lane moves.

    A multiprocessor moves 128 bytes per clock between L1 or shared memory and registers, 32 of them for each scheduler.
    A word that all lanes read counts for every lane, because it is written to the registers of every lane.
    """
    if opcode.startswith(("LDSM", "STSM")):
        return int(opcode.rsplit(".", 1)[1]) if opcode[-1].isdigit() and opcode[-2] == "." else 1
    return 4 if ".128" in opcode else 2 if ".64" in opcode else 1
