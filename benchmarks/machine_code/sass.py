"""Prints how many instructions of each class the innermost loops of a kernel have.

    python -m benchmarks.machine_code.sass FILE.txt [...]

A file contains SASS, NVIDIA's machine code, as text. `python -m benchmarks.machine_code.compile_table --code FOLDER`
writes a .txt file for every kernel.
"""

import argparse
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# The first match decides. The instructions of a class use the same unit of the chip. "other" are limited only by the
# rate of one warp instruction per clock.
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

ENCODING = r"(?:\s+/\* 0x([0-9a-f]{16}) \*/\s+/\* 0x([0-9a-f]{16}) \*/)?"  # the low and the high 64 bits
LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);" + ENCODING, re.MULTILINE)


@dataclass(frozen=True)
class Instruction:
    """An instruction of a kernel.

    Attributes:
        address: address in the kernel.
        opcode: with its modifiers, such as "LDG.E.128".
        operands: the text after the opcode.
        encoding: its 128 bits, which contain a control word (control_words.py). 0 if the text does not have them.
    """

    address: int
    opcode: str
    operands: str
    encoding: int = 0

    @property
    def kind(self) -> str:
        """The instruction's class, a key of CLASSES."""
        return next(kind for kind, pattern in CLASSES.items() if re.match(pattern, self.opcode))

    @property
    def target(self) -> int | None:
        """The target address of a branch; None for other instructions."""
        if not self.opcode.startswith("BRA"):
            return None
        match = re.search(r"0x([0-9a-f]+)\s*$", self.operands)
        return int(match[1], 16) if match else None


def parse(sass: str) -> list[Instruction]:
    """Returns all instructions of a kernel."""
    return [
        Instruction(int(address, 16), opcode, operands, int(high + low or "0", 16))
        for address, opcode, operands, low, high in LINE.findall(sass)
    ]


def find_loops(code: list[Instruction]) -> list[list[Instruction]]:
    """Returns the instructions of every loop, in the order of the code, inner loops before the loops around them.

    A loop is the code between a backward branch and its target. The branch to itself that ends a kernel is no loop.
    """
    spans: dict[int, int] = {}
    for instruction in code:
        if instruction.target is not None and instruction.target < instruction.address:
            spans[instruction.target] = instruction.address  # the last backward branch ends the loop
    nested = sorted(spans.items(), key=lambda span: (span[1], -span[0]))
    return [[x for x in code if first <= x.address <= last] for first, last in nested]


def innermost_loops(code: list[Instruction]) -> list[list[Instruction]]:
    """Returns the loops that contain no other loop."""
    all_loops = find_loops(code)
    heads = [loop[0].address for loop in all_loops]
    return [loop for loop in all_loops if sum(loop[0].address <= head <= loop[-1].address for head in heads) == 1]


def sweep_loops(code: list[Instruction]) -> list[list[Instruction]]:
    """Returns the innermost loops with the largest number of exponentials."""
    inner_loops = innermost_loops(code)
    largest = max(count_classes(loop)["ex2"] for loop in inner_loops)
    return [loop for loop in inner_loops if count_classes(loop)["ex2"] == largest]


def count_classes(code: list[Instruction]) -> dict[str, int]:
    """Returns {class: number of instructions} for all classes."""
    counts = Counter(instruction.kind for instruction in code)
    return {kind: counts[kind] for kind in CLASSES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="machine code of kernels, as text")
    for file in parser.parse_args().files:
        for loop in innermost_loops(parse(file.read_text())):
            counts = " ".join(f"{kind} {number}" for kind, number in count_classes(loop).items() if number)
            print(f"{file.name}  {loop[0].address:#x} to {loop[-1].address:#x}  {counts}")


if __name__ == "__main__":
    main()
