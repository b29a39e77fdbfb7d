"""Reads PTX: the text of a kernel becomes its parameters, variables in shared memory, and instructions."""

from __future__ import annotations

import re
from bisect import bisect
from dataclasses import dataclass, field

SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}  # bytes of a type that ends in these digits
NOISE = re.compile(r"//[^\n]*|/\*.*?\*/|^\s*\.(?:loc|file|pragma)\b[^\n]*", re.MULTILINE | re.DOTALL)
PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)[^,\[]*?\s([\w$]+)(?:\[(\d+)\])?\s*(?:,|$)")
VARIABLE = r"\.{}\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[(\d*)\];"
SHARED, LOCAL = re.compile(VARIABLE.format("shared")), re.compile(VARIABLE.format("local"))
# A block's brace, a label, or a statement. A statement may contain operands in braces.
STATEMENT = re.compile(r"\s*(?:([{}])|([\w$]+)\s*:(?!:)|((?:[^;{}]|\{[^{}]*\})+);)")
REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.+)", re.DOTALL)
GUARD = re.compile(r"@(!?)(%?[\w$]+)\s+(.+)", re.DOTALL)


def size_of(type_name: str) -> int:
    """Returns the bytes of a type such as "s32" or "bf16", or 0 of a predicate."""
    if type_name == "pred":
        return 0
    pair = type_name.endswith("x2")
    return SIZES[re.search(r"(\d+)$", type_name.removesuffix("x2"))[1]] * (2 if pair else 1)


@dataclass(frozen=True)
class Parameter:
    """A parameter of the kernel: its name and bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Register:
    """A register. `size`: its bytes for a lane, 0 for a predicate."""

    name: str
    size: int


@dataclass(frozen=True)
class Instruction:
    """An instruction.

    Attributes:
        opcode: with its modifiers, such as "ld.global.b32".
        operands: texts between the commas.
        guard: the predicate of the lanes that execute it, or None.
        negated: whether these are the lanes whose predicate is false.
        line: line in the text, from 1.
        scopes: {name: register}, innermost last, in which names are looked up.
    """

    opcode: str
    operands: tuple[str, ...]
    guard: str | None
    negated: bool
    line: int
    scopes: tuple[Scope, ...]


class Scope:
    """The registers that a block of statements declares: single names, and prefixes of numbered ones (%r<9>)."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.names: dict[str, str] = {}
        self.prefixes: dict[str, str] = {}

    def declare(self, type_name: str, names: str) -> None:
        """Reads the names of a .reg statement."""
        for name in names.split(","):
            name, numbered, _ = name.strip().partition("<")
            (self.prefixes if numbered else self.names)[name] = type_name

    def find(self, name: str) -> Register | None:
        """Returns the register of this name, if this block declares it."""
        type_name = self.names.get(name) or self.prefixes.get(name.rstrip("0123456789"))
        return None if type_name is None else Register(f"{self.number}:{name}", size_of(type_name))


@dataclass
class Kernel:
    """A parsed kernel.

    Attributes:
        name: its name in the text.
        parameters: in the order of the launch.
        shared: {variable: offset} in shared memory.
        shared_size: bytes of shared memory of known size. Launches add the bytes of an array without a size.
        local: {variable: offset} in a thread's own memory.
        local_size: bytes of it.
        instructions: all instructions.
        labels: {label: index of the next instruction}.
    """

    name: str
    parameters: list[Parameter]
    shared: dict[str, int]
    shared_size: int
    local: dict[str, int]
    local_size: int
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> Kernel:
    """Returns the only kernel of a PTX text."""
    text = NOISE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)  # keeps the lines' numbers
    _, entry, rest = text.partition(".visible .entry")
    if not entry or ".entry" in rest or re.search(r"\.func\b", text):
        raise ValueError("the PTX text must contain one kernel, and no functions")
    name, _, rest = rest.partition("(")
    listed, _, rest = rest.partition(")")
    parameters = [
        Parameter(match[2], int(match[3] or 1) * size_of(match[1]))
        for match in (PARAMETER.search(one.strip()) for one in listed.split(",") if one.strip())
    ]
    body_at = rest.index("{")
    kernel = Kernel(name.strip(), parameters, *_variables(SHARED, text), *_variables(LOCAL, text))
    _read_body(kernel, rest[body_at:], line=text[: len(text) - len(rest) + body_at].count("\n") + 1)
    return kernel


def _variables(space: re.Pattern[str], text: str) -> tuple[dict[str, int], int]:
    """Returns {variable: offset} in SHARED or LOCAL, and the bytes of those of known size. The others follow them."""
    offsets, end = {}, 0
    for alignment, name, count in sorted(space.findall(text), key=lambda found: found[2] == ""):
        end = -(-end // int(alignment)) * int(alignment)
        offsets[name] = end
        end += int(count or 0)
    return offsets, end


def _read_body(kernel: Kernel, body: str, line: int) -> None:
    """Appends the statements between the braces at the beginning of `body`, which is at this line of the text."""
    breaks = [match.start() for match in re.finditer("\n", body)]
    scopes: list[Scope] = []
    blocks = 0
    at = 0
    while match := STATEMENT.match(body, at):
        at = match.end()
        brace, label, statement = match.groups()
        if brace == "{":
            scopes = [*scopes, Scope(blocks)]
            blocks += 1
        elif brace == "}":
            scopes = scopes[:-1]
            if not scopes:
                return
        elif label:
            kernel.labels[label] = len(kernel.instructions)
        elif declared := REGISTERS.fullmatch(statement.strip()):
            scopes[-1].declare(declared[1], declared[2])
        elif shared := SHARED.fullmatch(f"{statement.strip()};"):
            assert shared[2] in kernel.shared
        elif local := LOCAL.fullmatch(f"{statement.strip()};"):
            assert local[2] in kernel.local
        else:
            first = match.start(3) + len(statement) - len(statement.lstrip())
            number = line + bisect(breaks, first - 1)
            kernel.instructions.append(_instruction(statement.strip(), number, tuple(scopes)))
    raise ValueError(f"line {line + bisect(breaks, at)}: this is no PTX statement: {body[at : at + 60].strip()!r}")


def _instruction(statement: str, line: int, scopes: tuple[Scope, ...]) -> Instruction:
    """Splits a statement into guard, opcode and operands."""
    guard, negated = None, False
    if match := GUARD.fullmatch(statement):
        negated, guard, statement = match[1] == "!", match[2], match[3]
    opcode, *rest = statement.split(None, 1)
    return Instruction(opcode, tuple(_split(rest[0])) if rest else (), guard, negated, line, scopes)


def _split(operands: str) -> list[str]:
    """Splits at the commas that are outside of braces and brackets."""
    return [part.strip() for part in re.split(r",(?![^{]*\})(?![^\[]*\])", operands)]
