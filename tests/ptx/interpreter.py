"""Builds the interpreter at its first use, and runs kernels with it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from filelock import FileLock

from tests.ptx.encode import LANES, Encoded, Program, UnknownInstruction, encode
from tests.ptx.parse import parse

SOURCES = Path(__file__).with_name("interpreter")
BUILD = SOURCES / "build"  # ignored by git
COMPILER = shutil.which("c++") or shutil.which("g++")
# Sums and products are rounded as PTX says, so that they must not be contracted.
FLAGS = (
    "-std=c++20",
    "-O3",
    "-march=native",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
)
IN_ORDER, REVERSE, ROUND_ROBIN = range(3)
LOG_BYTES = 16384


@dataclass(frozen=True)
class Options:
    """How a launch runs.

    Attributes:
        schedule: IN_ORDER, REVERSE or ROUND_ROBIN: in which order warps and programs run.
        late: whether asynchronous copies and products happen as late as the kernel allows, not as early.
        races: whether to report races.
        disturbed: whether approximate instructions and tensor cores are as inexact as their documentation allows.
        residents: programs that run at the same time.
    """

    schedule: int = IN_ORDER
    late: bool = False
    races: bool = True
    disturbed: bool = False
    residents: int = 1


@dataclass(frozen=True)
class Outcome:
    """What a launch did. `complaints`: number of mistakes, the first of which `log` describes."""

    complaints: int
    log: str
    executed: int = field(compare=False)


ENCODED = np.dtype(
    [
        *((name, "i4") for name in ("opcode", "kind", "guard", "negated", "results", "sources", "operands")),
        *((name, "i4") for name in ("size", "flags", "target", "meeting", "line")),
        ("immediate", "i8"),
    ]
)
CONSTANT = np.dtype([("offset", "i4"), ("bytes", "i4"), ("value", "u8")])


class Description(ctypes.Structure):
    """The struct Description of library.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("code", "operands", "constants", "parameters", "ranges")),
        *((name, ctypes.c_int64) for name in ("code_count", "constant_count", "parameter_bytes", "range_count")),
        *((name, ctypes.c_int64) for name in ("register_bytes", "local_bytes", "shared_bytes")),
        ("grid", ctypes.c_int32 * 3),
        *((name, ctypes.c_int32) for name in ("threads", "shared_piece", "global_piece")),
        *((name, ctypes.c_int32) for name in ("schedule", "late", "races", "disturbed", "residents")),
        ("executed", ctypes.c_uint64),
        ("log", ctypes.c_char * LOG_BYTES),
    ]


@functools.cache
def library() -> ctypes.CDLL:
    """Returns the interpreter. It is built if its sources, the compiler or the CPU have changed."""
    files = sorted(SOURCES.glob("*.cpp"))
    key = hashlib.sha256(repr((COMPILER, FLAGS)).encode())
    for path in sorted(SOURCES.glob("*.[ch]*")):
        key.update(path.read_bytes())
    out = BUILD / f"{_cpu()}-{key.hexdigest()[:16]}.so"
    BUILD.mkdir(exist_ok=True)
    with FileLock(BUILD / "lock"):
        if not out.exists():
            _build(files, out)
    loaded = ctypes.CDLL(str(out))
    loaded.opcode_name.restype = ctypes.c_char_p
    return loaded


def _cpu() -> str:
    """Returns a name of the instruction sets of this CPU, for which the library is compiled."""
    command = [COMPILER, "-march=native", "-E", "-dM", "-x", "c++", "/dev/null"]
    macros = subprocess.run(command, capture_output=True, check=True).stdout
    return hashlib.sha256(macros).hexdigest()[:8]


def _build(files: Sequence[Path], out: Path) -> None:
    """Compiles the files at the same time, and links them."""

    def compile_file(file: Path) -> str:
        subprocess.run([COMPILER, *FLAGS, "-c", file, "-o", f"{out}.{file.stem}.o"], check=True)
        return f"{out}.{file.stem}.o"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_file, files))
    subprocess.run([COMPILER, "-shared", *objects, "-o", f"{out}.new"], check=True)
    for file in objects:
        Path(file).unlink()
    Path(f"{out}.new").rename(out)


@functools.cache
def opcode_numbers() -> dict[str, int]:
    """Returns {opcode: its number in the library}."""
    return {library().opcode_name(k).decode(): k for k in range(library().opcode_count())}


class Executable:
    """A kernel, ready to run."""

    def __init__(self, text: str) -> None:
        self.program = encode(parse(text))
        missing = {x.opcode: x.line for x in self.program.code if x.opcode not in opcode_numbers()}
        if missing:
            raise UnknownInstruction(f"the interpreter lacks {missing} (opcode: line)")
        self.code, self.operands = _arrays(self.program)
        constants = [(offset, size, value) for offset, (size, value) in self.program.constants.items()]
        self.constants = np.array(constants, CONSTANT)

    def pack_parameters(self, values: Sequence[int | bytes]) -> bytes:
        """Returns the bytes of all parameters. Those for which there is no value are zero."""
        parameters = self.program.kernel.parameters
        assert len(values) <= len(parameters), f"{len(values)} values for {len(parameters)} parameters"
        packed = bytearray(self.program.parameter_bytes)
        for parameter, value in zip(parameters, values):
            at = self.program.parameters[parameter.name]
            data = (
                value
                if isinstance(value, bytes)
                else (value % (1 << 8 * parameter.size)).to_bytes(parameter.size, "little")
            )
            assert len(data) == parameter.size
            packed[at : at + parameter.size] = data
        return bytes(packed)

    def run(
        self,
        grid: tuple[int, int, int],
        threads: int,
        values: Sequence[int | bytes],
        *,
        shared: int = 0,
        ranges: Sequence[tuple[int, int]] = (),
        options: Options | None = None,
    ) -> Outcome:
        """Runs the kernel.

        Args:
            grid: numbers of programs.
            threads: threads of a program.
            values: of the parameters. Addresses are those of this process.
            shared: bytes of shared memory of a program.
            ranges: (begin, end) of the memory that the kernel may use.
            options: how it runs, by default Options().
        """
        options = options or Options()
        assert threads % LANES == 0 and threads <= 1024
        program = self.program
        packed = np.frombuffer(self.pack_parameters(values) or b"\0", "u1")
        memory = np.array([x for one in ranges for x in one] or [0], "u8")
        description = Description(
            *(array.ctypes.data for array in (self.code, self.operands, self.constants, packed, memory)),
            *(len(self.code), len(self.constants), program.parameter_bytes, len(ranges)),
            *(program.register_bytes, program.kernel.local_size, max(shared, program.kernel.shared_size)),
            (ctypes.c_int32 * 3)(*grid),
            *(threads, program.shared_piece, program.global_piece),
            *(options.schedule, options.late, options.races, options.disturbed, options.residents),
        )
        complaints = library().run_launch(ctypes.byref(description))
        return Outcome(complaints, description.log.decode(), description.executed)


def _arrays(program: Program) -> tuple[np.ndarray, np.ndarray]:
    """Returns the instructions and their operands as the library reads them."""
    numbers = opcode_numbers()
    operands: list[int] = []
    rows = []
    for x in program.code:
        rows.append(_row(x, numbers[x.opcode], len(operands)))
        operands += [*x.results, *x.sources]
    return np.array(rows, ENCODED), np.array([*operands, 0], "i4")


def _row(x: Encoded, number: int, operands: int) -> tuple[int, ...]:
    counts = (len(x.results), len(x.sources))
    return (
        number,
        x.kind,
        x.guard,
        x.negated,
        *counts,
        operands,
        x.size,
        x.flags,
        x.target,
        x.meeting,
        x.line,
        x.immediate,
    )
