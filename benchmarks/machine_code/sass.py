"""SASS, NVIDIA's machine code, as text: its loops, and what their instructions are.

    python -m benchmarks.machine_code.sass FILE.sass [...]

prints the instructions of every innermost loop, by class; benchmarks/machine_code/compile_table.py --code FOLDER writes such files.
"""

import argparse
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# First match wins. A class is what limits it: its own unit, or (for "other") only that a warp instruction takes a clock.
CLASSES = {
    "ex2": r"MUFU\.EX2",
    "special": r"MUFU",
    "tensor": r"(H|HG|I|IG|Q|QG|D|B|OM|UTC\w*)MMA",
    "fp32": r"(FFMA|FMUL|FADD)2?\b",
    "shared": r"(LDS|STS|LDSM|STSM|ATOMS)\b",
    "global": r"(LDG|LDGSTS|STG|ATOMG|RED|REDG|UBLKCP|UTMALDG)\b",
    "local": r"(LDL|STL)\b",
    "convert": r"(F2\w+|I2\w+|HADD2\.F32)\b",
    "shuffle": r"SHFL\b",
    "barrier": r"(BAR|DEPBAR|LDGDEPBAR|SYNCS|WARPSYNC|ARRIVES)\b",
    "other": "",
}

LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", re.MULTILINE)


@dataclass(frozen=True)
class Instruction:
    address: int
    opcode: str  # with its modifiers: "LDG.E.128"
    operands: str

    @property
    def kind(self) -> str:
        return next(kind for kind, pattern in CLASSES.items() if re.match(pattern, self.opcode))

    @property
    def target(self) -> int | None:
        """Where a branch goes."""
        found = re.search(r"0x([0-9a-f]+)\s*$", self.operands) if self.opcode.startswith("BRA") else None
        return int(found[1], 16) if found else None


def parse(sass: str) -> list[Instruction]:
    return [Instruction(int(address, 16), *rest) for address, *rest in LINE.findall(sass)]


def find_loops(code: list[Instruction]) -> list[list[Instruction]]:
    """Every loop's instructions, inner loops before those around them, in the order of the code.

    A loop is what lies between a branch back and its target. (The branch to itself behind a kernel's end is none.)
    """
    spans: dict[int, int] = {}
    for instruction in code:
        if instruction.target is not None and instruction.target < instruction.address:
            spans[instruction.target] = instruction.address  # the last branch back to a loop's head closes it
    nested = sorted(spans.items(), key=lambda span: (span[1], -span[0]))
    return [[x for x in code if first <= x.address <= last] for first, last in nested]


def innermost_loops(code: list[Instruction]) -> list[list[Instruction]]:
    """The loops without a loop inside."""
    found = find_loops(code)
    heads = [loop[0].address for loop in found]
    return [loop for loop in found if sum(loop[0].address <= head <= loop[-1].address for head in heads) == 1]


def sweep_loops(code: list[Instruction]) -> list[list[Instruction]]:
    """The innermost loops that compute most exponentials, all of which compute as many."""
    found = innermost_loops(code)
    most = max(count_classes(loop)["ex2"] for loop in found)
    return [loop for loop in found if count_classes(loop)["ex2"] == most]


def count_classes(code: list[Instruction]) -> dict[str, int]:
    """{class: instructions}, all classes."""
    found = Counter(instruction.kind for instruction in code)
    return {kind: found[kind] for kind in CLASSES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    for file in parser.parse_args().files:
        for loop in innermost_loops(parse(file.read_text())):
            counts = " ".join(f"{kind} {number}" for kind, number in count_classes(loop).items() if number)
            print(f"{file.name}  {loop[0].address:#x} to {loop[-1].address:#x}  {counts}")


if __name__ == "__main__":
    main()
