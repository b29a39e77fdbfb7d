"""Turns a parsed kernel into what the interpreter runs: registers become offsets, constants become registers."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from tests.ptx.control_flow import meeting_points
from tests.ptx.opcodes import BARRIERS, IGNORED, SPECIAL, WITHOUT_OPERANDS, shape_of
from tests.ptx.parse import Instruction, Kernel, Register, size_of

SIMPLE, BRANCH, EXIT, BARRIER, WAIT_FOR_WGMMA = range(5)  # as in machine.h
SIGNED, WIDE, ACQUIRE, RELEASE = 1, 2, 4, 8  # as in loads_and_stores.cpp
A_IN_REGISTERS, A_TRANSPOSED, B_TRANSPOSED, IS_HALF = 1, 2, 4, 8  # as in wgmma.cpp
LANES = 32
LOCAL = 1 << 60  # generic addresses from here on are in the threads' own memory, as in memory.h
PIECE = 4  # largest number of bytes of which the interpreter remembers the last access
ADDRESS = re.compile(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\w+))?\s*\]")
# {bytes of a lane: bytes of a register}. A predicate has a bit for each lane.
REGISTER_BYTES = {0: 64, 4: 4 * LANES, 8: 8 * LANES}


class UnknownInstruction(NotImplementedError):
    """The interpreter lacks an instruction of the kernel."""


@dataclass
class Encoded:
    """An instruction. The fields are those of machine.h."""

    opcode: str
    results: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    kind: int = SIMPLE
    guard: int = -1
    negated: bool = False
    size: int = 0
    flags: int = 0
    immediate: int = 0
    target: int = -1
    meeting: int = -1
    line: int = 0


@dataclass
class Program:
    """A kernel that the interpreter can run.

    Attributes:
        kernel: the parsed text.
        code: the instructions.
        constants: {offset of a register: (bytes of a lane, value)}.
        parameters: {name: offset}.
        parameter_bytes: bytes of all parameters.
        register_bytes: bytes of the registers of a warp.
        shared_piece: bytes of shared memory whose accesses are recorded together, of which no access has fewer.
        global_piece: the same for global memory.
    """

    kernel: Kernel
    code: list[Encoded] = field(default_factory=list)
    constants: dict[int, tuple[int, int]] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    parameter_bytes: int = 0
    register_bytes: int = 0
    shared_piece: int = PIECE
    global_piece: int = PIECE


def stored(size: int) -> int:
    """Returns the bytes in which a register keeps a lane's value of some bytes."""
    return min(size, 1) * (8 if size > 4 else 4)


def bits_of(text: str, size: int) -> int:
    """Returns the bits of a literal."""
    if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", text):
        return int(match[1], 16)
    if match := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", text):
        return int(match[1], 16)
    if re.fullmatch(r"-?\d+\.\d*(?:[eE][-+]?\d+)?", text):
        return (
            struct.unpack("Q", struct.pack("d", float(text)))[0]
            if size == 8
            else struct.unpack("I", struct.pack("f", float(text)))[0]
        )
    value = int(text.rstrip("U"), 0)
    if size == 0:  # a predicate, with a bit for each lane
        return (1 << LANES) - 1 if value else 0
    return value & ((1 << 8 * size) - 1)


class Encoder:
    """Encodes one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.program = Program(kernel)
        self.offsets: dict[object, int] = {}
        for parameter in kernel.parameters:
            at = -(-self.program.parameter_bytes // min(parameter.size, 8)) * min(parameter.size, 8)
            self.program.parameters[parameter.name] = at
            self.program.parameter_bytes = at + parameter.size
        self.first: list[int] = []  # where the code of each instruction of the text begins

    def encode(self) -> Program:
        """Encodes all instructions and fills in branches and where their ways meet."""
        kernel, code = self.program.kernel, self.program.code
        for instruction in kernel.instructions:
            self.first.append(len(code))
            start = len(code)
            try:
                self._encode(instruction)
            except (KeyError, ValueError, TypeError, IndexError, AssertionError) as error:
                raise UnknownInstruction(
                    f"line {instruction.line}: {instruction.opcode} {instruction.operands}"
                ) from error
            for encoded in code[start:]:
                encoded.line = instruction.line
                if instruction.guard is not None:
                    encoded.guard = self._register(instruction.guard, instruction)
                    encoded.negated = instruction.negated
        self.first.append(len(code))
        branches = {k: x for k, x in enumerate(code) if x.kind == BRANCH}
        for branch in branches.values():
            branch.target = self.first[branch.target]
        conditional = {k for k, x in branches.items() if x.guard >= 0}
        exits = {k for k, x in enumerate(code) if x.kind == EXIT and x.guard < 0}
        targets = {k: x.target for k, x in branches.items()}
        for k, meeting in meeting_points(len(code), targets, conditional, exits).items():
            code[k].meeting = meeting
        return self.program

    def _add(self, opcode: str, results: list[int], sources: list[int], **fields: int) -> None:
        self.program.code.append(Encoded(opcode, results, sources, **fields))

    def _offset(self, key: object, size: int) -> int:
        """Returns the offset of a register, which is created at its first use."""
        if key not in self.offsets:
            self.offsets[key] = self.program.register_bytes
            self.program.register_bytes += REGISTER_BYTES[stored(size)]
        return self.offsets[key]

    def _find(self, name: str, instruction: Instruction) -> Register | None:
        """Returns the register of this name, looking in the innermost block first."""
        found = (scope.find(name) for scope in reversed(instruction.scopes))
        return next((register for register in found if register), None)

    def _register(self, name: str, instruction: Instruction) -> int:
        register = self._find(name, instruction)
        assert register is not None, name
        return self._offset(register.name, register.size)

    def _constant(self, value: int, size: int) -> int:
        offset = self._offset(("constant", value, stored(size)), size)
        self.program.constants[offset] = (stored(size), value)
        return offset

    def _symbol(self, name: str) -> int | None:
        """Returns the address of a variable in shared or local memory, or of a parameter among the parameters."""
        kernel = self.program.kernel
        return (kernel.shared | kernel.local | self.program.parameters).get(name)

    def _source(self, text: str, size: int, instruction: Instruction, *, may_narrow: bool = False) -> int:
        """Returns the offset of a source of some bytes. A wider register is narrowed if that is allowed."""
        if text.startswith("!"):
            raise ValueError("negated operand")
        register = self._find(text, instruction)
        if register is None:
            symbol = self._symbol(text)
            return self._constant(bits_of(text, size) if symbol is None else symbol, size)
        offset = self._offset(register.name, register.size)
        if stored(register.size) == stored(size):
            return offset
        assert may_narrow and stored(register.size) == 8, f"{text} has {register.size} bytes, not {size}"
        narrow = self._offset(("narrow", len(self.program.code)), 4)
        self._add("narrow", [narrow], [offset])
        return narrow

    def _result(self, text: str, size: int, instruction: Instruction) -> int:
        """Returns the offset of a result of some bytes, or -1 of one that is not wanted."""
        if text == "_":
            return -1
        register = self._find(text, instruction)
        assert register is not None, text
        assert stored(register.size) == stored(size), f"{text} has {register.size} bytes, not {size}"
        return self._offset(register.name, register.size)

    def _address(self, text: str, size: int, instruction: Instruction) -> tuple[int, int]:
        """Returns the offset of the register and what is added to it."""
        match = ADDRESS.fullmatch(text)
        assert match is not None, text
        return self._source(match[1], size, instruction), int(match[2] or "0", 0)

    def _encode(self, x: Instruction) -> None:
        opcode = x.opcode if x.opcode.startswith("fence") else x.opcode.replace("shared::cta", "shared")
        parts = opcode.split(".")
        if opcode in WITHOUT_OPERANDS:
            self._add(WITHOUT_OPERANDS[opcode], [], [])
        elif opcode in BARRIERS:
            threads = int(x.operands[1]) if len(x.operands) > 1 else 0
            self._add("nothing", [], [], kind=BARRIER, immediate=int(x.operands[0]), size=threads)
        elif handler := getattr(self, f"_encode_{parts[0]}", None):
            handler(x, parts)
        else:
            self._encode_by_shape(x, parts)

    def _encode_by_shape(self, x: Instruction, parts: list[str]) -> None:
        """Encodes an instruction as SHAPES says."""
        shape = shape_of(".".join(parts))
        assert shape is not None
        size = size_of(parts[-1]) if shape != ("", "I") else 4
        sizes = {"T": size, "W": 2 * size, "I": 4, "P": 0}
        if "D" in shape[0]:
            sizes["D"] = size_of(parts[-2])
        results, sources = shape
        texts = x.operands[0].split("|") if results else []
        offsets = [self._source(text, sizes[kind], x) for text, kind in zip(x.operands[len(results) :], sources)]
        assert len(offsets) == len(sources) == len(x.operands) - len(results)
        kinds = results + "P" * (len(texts) - 1)  # a second result is a predicate
        self._add(".".join(parts), [self._result(t.strip(), sizes[k], x) for t, k in zip(texts, kinds)], offsets)

    def _encode_bra(self, x: Instruction, parts: list[str]) -> None:
        self._add("nothing", [], [], kind=BRANCH, target=self.program.kernel.labels[x.operands[0]])

    def _encode_ret(self, x: Instruction, parts: list[str]) -> None:
        self._add("nothing", [], [], kind=EXIT)

    _encode_exit = _encode_ret

    def _encode_mov(self, x: Instruction, parts: list[str]) -> None:
        size = size_of(parts[-1])
        to, source = x.operands
        if source in SPECIAL:
            self._add("special", [self._result(to, 4, x)], [], immediate=SPECIAL.index(source))
        elif "{" in source:
            texts = _elements(source)
            part = size // len(texts)
            self._add("pack", [self._result(to, size, x)], [self._source(t, part, x) for t in texts], size=size)
        elif "{" in to:
            texts = _elements(to)
            results = [self._result(t, size // len(texts), x) for t in texts]
            self._add("unpack", results, [self._source(source, size, x)], size=size)
        else:
            self._move("mov", x, size)

    def _encode_selp(self, x: Instruction, parts: list[str]) -> None:
        size = size_of(parts[-1])
        sources = [self._source(text, bytes_, x) for text, bytes_ in zip(x.operands[1:], (size, size, 0))]
        self._add(f"selp.b{8 * stored(size)}", [self._result(x.operands[0], size, x)], sources)

    def _encode_cvta(self, x: Instruction, parts: list[str]) -> None:
        if parts[1:] == ["local", "u64"]:
            sources = [self._source(x.operands[1], 8, x), self._constant(LOCAL, 8)]
            self._add("add.u64", [self._result(x.operands[0], 8, x)], sources)
        else:
            assert parts[1:] in (["to", "global", "u64"], ["global", "u64"])
            self._move("mov", x, 8)

    def _move(self, opcode: str, x: Instruction, size: int) -> None:
        name = f"{opcode}.b{8 * stored(size)}" if size else f"{opcode}.pred"
        self._add(name, [self._result(x.operands[0], size, x)], [self._source(x.operands[1], size, x)])

    def _encode_cvt(self, x: Instruction, parts: list[str]) -> None:
        """A register may be wider than the type: its low bits are converted, the result is extended."""
        size, to = size_of(parts[-1]), size_of(parts[-2])
        sources = [self._source(text, size, x, may_narrow=True) for text in x.operands[1:]]
        register = self._find(x.operands[0], x)
        assert register is not None
        if stored(register.size) == stored(to):
            self._add(".".join(parts), [self._offset(register.name, register.size)], sources)
        else:
            assert stored(register.size) == 8
            narrow = self._offset(("narrow", len(self.program.code)), 4)
            self._add(".".join(parts), [narrow], sources)
            sign = "s" if parts[-2].startswith("s") else "u"
            self._add(f"widen.{sign}", [self._offset(register.name, register.size)], [narrow])

    def _elements_of(self, text: str, size: int, x: Instruction, *, source: bool) -> tuple[list[int], int]:
        """Returns the registers of the elements of a load or store, and WIDE if they are wider than 4 bytes."""
        texts = _elements(text)
        registers = [self._find(t, x) for t in texts]
        width = max((stored(register.size) for register in registers if register), default=stored(size))
        offsets = [self._source(t, width, x) if source else self._result(t, width, x) for t in texts]
        return offsets, WIDE if width == 8 else 0

    def _space(self, parts: list[str]) -> tuple[str, int]:
        """Returns the space of a load or store, and the flags of its order. Complains of unknown modifiers."""
        modifiers = parts[1:-1]
        flags = ACQUIRE if "acquire" in modifiers else 0
        rest = [one for one in modifiers if one not in IGNORED and one != "acquire"]
        assert rest in ([], ["global"], ["shared"], ["param"]), rest
        return (rest or ["global"])[0], flags  # a generic address is global or local: kernels take no others

    def _note_access(self, space: str, size: int) -> None:
        """Remembers the smallest access to shared and to global memory."""
        if space == "shared":
            self.program.shared_piece = min(self.program.shared_piece, size)
        elif space == "global":
            self.program.global_piece = min(self.program.global_piece, size)

    def _encode_ld(self, x: Instruction, parts: list[str]) -> None:
        space, flags = self._space(parts)
        size = size_of(parts[-1])
        results, wide = self._elements_of(x.operands[0], size, x, source=False)
        address, offset = self._address(x.operands[1], 4 if space == "shared" else 8, x)
        self._note_access(space, size * len(results))
        flags |= wide | (SIGNED if parts[-1].startswith("s") else 0)
        self._add(f"ld.{space}", results, [address], size=size, flags=flags, immediate=offset)

    def _encode_st(self, x: Instruction, parts: list[str]) -> None:
        space, flags = self._space(parts)
        assert space != "param" and not flags
        size = size_of(parts[-1])
        address, offset = self._address(x.operands[0], 4 if space == "shared" else 8, x)
        sources, wide = self._elements_of(x.operands[1], size, x, source=True)
        self._note_access(space, size * len(sources))
        self._add(f"st.{space}", [], [address, *sources], size=size, flags=wide, immediate=offset)

    def _encode_atom(self, x: Instruction, parts: list[str]) -> None:
        modifiers = set(parts[1:-1]) - IGNORED
        assert "global" in modifiers
        flags = ACQUIRE * bool(modifiers & {"acquire", "acq_rel"}) | RELEASE * bool(modifiers & {"release", "acq_rel"})
        (operation,) = modifiers - {"global", "acquire", "release", "acq_rel"}
        size = size_of(parts[-1])
        results = [self._result(x.operands[0], size, x)] if parts[0] == "atom" else []
        at, value = x.operands[len(results) :]
        address, offset = self._address(at, 8, x)
        sources = [address, self._source(value, size, x)]
        self._add(f"atom.{operation}.{parts[-1]}", results, sources, flags=flags, immediate=offset)

    _encode_red = _encode_atom

    def _encode_cp(self, x: Instruction, parts: list[str]) -> None:
        if "wait_group" in parts:
            self._add("cp.async.wait_group", [], [], immediate=int(x.operands[0], 0))
            return
        assert parts[1] == "async" and parts[3:5] == ["shared", "global"]
        to, to_offset = self._address(x.operands[0], 4, x)
        source, from_offset = self._address(x.operands[1], 8, x)
        read = [self._source(text, 4, x) for text in x.operands[3:]]
        size = int(x.operands[2], 0)
        self._note_access("shared", size)
        self._add("cp.async", [], [to, source, *read], size=size, flags=to_offset, immediate=from_offset)

    def _encode_ldmatrix(self, x: Instruction, parts: list[str]) -> None:
        assert parts[-1] == "b16" and "m8n8" in parts
        address, offset = self._address(x.operands[1], 4, x)
        results = [self._result(text, 4, x) for text in _elements(x.operands[0])]
        self._add("ldmatrix", results, [address], flags="trans" in parts, immediate=offset)

    def _encode_stmatrix(self, x: Instruction, parts: list[str]) -> None:
        assert parts[-1] == "b16" and "m8n8" in parts
        address, offset = self._address(x.operands[0], 4, x)
        sources = [self._source(text, 4, x) for text in _elements(x.operands[1])]
        self._add("stmatrix", [], [address, *sources], flags="trans" in parts, immediate=offset)

    def _encode_mma(self, x: Instruction, parts: list[str]) -> None:
        size = 8 if "f64" in parts else 4
        d, *factors = [_elements(text) for text in x.operands]
        sources = [self._source(text, size, x) for texts in factors for text in texts]
        self._add(".".join(parts), [self._result(text, size, x) for text in d], sources)

    def _encode_wgmma(self, x: Instruction, parts: list[str]) -> None:
        if parts[1] == "wait_group":
            self._add("nothing", [], [], kind=WAIT_FOR_WGMMA, immediate=int(x.operands[0], 0))
            return
        assert parts[1:4] == ["mma_async", "sync", "aligned"] and parts[5] == "f32"
        columns, depth = re.fullmatch(r"m64n(\d+)k(\d+)", parts[4]).groups()
        d, a = _elements(x.operands[0]), _elements(x.operands[1])
        in_registers = len(a) > 1
        sources = [self._source(text, 4 if in_registers else 8, x) for text in a]
        sources += [self._source(x.operands[2], 8, x), self._source(x.operands[3], 0, x)]
        assert x.operands[4:6] == ("1", "1"), "negated factors"
        transposed = [text != "0" for text in x.operands[6:]]  # of a, unless it is in registers, and of b
        a_transposed, b_transposed = ([False] * 2 + transposed)[-2:]
        flags = A_IN_REGISTERS * in_registers | A_TRANSPOSED * a_transposed | B_TRANSPOSED * b_transposed
        flags |= IS_HALF * (parts[6] == "f16")
        size = 32 // int(depth)
        assert {"bf16": 2, "f16": 2, "tf32": 4}[parts[6]] == size and len(d) == int(columns) // 2
        results = [self._result(text, 4, x) for text in d]
        self._add("wgmma", results, sources, size=size, flags=flags, immediate=int(columns))


def _elements(text: str) -> list[str]:
    """Returns the elements of an operand, which is in braces if it has several."""
    return [part.strip() for part in text.strip().strip("{}").split(",")]


def encode(kernel: Kernel) -> Program:
    """Encodes a parsed kernel. Raises UnknownInstruction for an instruction that the interpreter lacks."""
    return Encoder(kernel).encode()
