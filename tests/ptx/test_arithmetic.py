"""Every opcode that computes a value in each lane, against its definition in Python's integers and exact fractions."""

from __future__ import annotations

import math
import operator
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from tests.ptx import interpreter
from tests.ptx.numbers_of import FLOATS, signed
from tests.ptx.one_instruction import apply
from tests.ptx.parse import size_of

pytestmark = pytest.mark.skipif(interpreter.COMPILER is None, reason="no C++ compiler")
INTEGERS = ("s16", "u16", "s32", "u32", "s64", "u64")
COUNT = 128  # values that each opcode is tried on


@dataclass(frozen=True)
class Case:
    """An opcode.

    Attributes:
        opcode: its name.
        result: type of the result.
        sources: types of the operands.
        define: computes the result's value from those of the operands. Values are as `read` returns them. A result of
            type b... is bits. None: any result is right.
        inputs: {operand: its values}, where not all bits make sense.
    """

    opcode: str
    result: str
    sources: tuple[str, ...]
    define: Callable[..., object]
    inputs: dict[int, tuple[int, ...]] | None = None


def read(kind: str, bits: int) -> int | float:
    """Returns the value of bits: a number, or for b... and pred the bits themselves."""
    if kind in FLOATS:
        return FLOATS[kind].decode(bits)
    return signed(bits, size_of(kind)) if kind[0] == "s" else bits


def write(kind: str, value: object) -> int:
    """Returns the bits of a value, rounded to nearest."""
    if kind in FLOATS:
        return FLOATS[kind].encode(value)
    return int(value) & ((1 << 8 * (size_of(kind) or 1)) - 1)


def exactly(function: Callable[..., Fraction]) -> Callable[..., Fraction | float]:
    """Returns the function for exact fractions. If an operand or the result is not finite, floats decide.

    A zero has the sign that floats give it.
    """

    def define(*values: float) -> Fraction | float:
        try:
            exact = function(*map(Fraction, values))
        except (ValueError, OverflowError, ZeroDivisionError):
            return by_floats(function, values)
        return exact or by_floats(function, values)

    return define


def by_floats(function: Callable[..., float], values: tuple[float, ...]) -> float:
    """Returns the function of float64 numbers, in which division by zero is an infinity."""
    with np.errstate(all="ignore"):
        return float(function(*map(np.float64, values)))


def quotient(a: int, b: int) -> int:
    """Returns a / b cut off towards zero."""
    return -1 if b == 0 else int(abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1))


def integer_cases() -> Iterator[Case]:
    for t in INTEGERS:
        two, one = (t, t), (t,)
        bits = 8 * size_of(t)
        yield Case(f"add.{t}", t, two, operator.add)
        yield Case(f"sub.{t}", t, two, operator.sub)
        yield Case(f"mul.lo.{t}", t, two, operator.mul)
        yield Case(f"mad.lo.{t}", t, (t, t, t), lambda a, b, c: a * b + c)
        yield Case(f"neg.{t}", t, one, operator.neg)
        yield Case(f"abs.{t}", t, one, abs)
        yield Case(f"min.{t}", t, two, min)
        yield Case(f"max.{t}", t, two, max)
        yield Case(f"div.{t}", t, two, lambda a, b: None if b == 0 else quotient(a, b))
        yield Case(f"rem.{t}", t, two, lambda a, b: None if b == 0 else a - b * quotient(a, b))
        yield Case(f"shr.{t}", t, (t, "u32"), lambda a, b: a >> min(b, 64), {1: SHIFTS})
        for name, compare in COMPARISONS.items():
            yield Case(f"setp.{name}.{t}", "pred", two, compare)
        if bits < 64:
            wide = f"{t[0]}{2 * bits}"
            yield Case(f"mul.wide.{t}", wide, two, operator.mul)
            yield Case(f"mad.wide.{t}", wide, (t, t, wide), lambda a, b, c: a * b + c)
            yield Case(f"mul.hi.{t}", t, two, lambda a, b, bits=bits: a * b >> bits)


COMPARISONS = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
SHIFTS = (0, 1, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000)
PLACES = (0, 1, 7, 8, 20, 31, 32, 33, 200)


def unsigned_field(a: int, start: int, length: int) -> int:
    return a >> min(start & 255, 32) & ((1 << min(length & 255, 32)) - 1)


def signed_field(a: int, start: int, length: int) -> int:
    """The field's highest bit fills what is above it. Beyond the highest bit of a its sign continues."""
    start, length = start & 255, min(length & 255, 32)
    extended = signed(a, 4) >> start
    return signed_bits(extended, length)


def signed_bits(x: int, length: int) -> int:
    field = x & ((1 << length) - 1)
    return field - (1 << length) if length and field >> (length - 1) else field


def inserted(a: int, b: int, start: int, length: int) -> int:
    mask = ((1 << min(length & 255, 32)) - 1) << min(start & 255, 32)
    return b & ~mask | a << min(start & 255, 32) & mask


def permuted(a: int, b: int, selector: int) -> int:
    both = a.to_bytes(4, "little") + b.to_bytes(4, "little")
    digits = [selector >> 4 * k & 15 for k in range(4)]
    return int.from_bytes(bytes(255 * (both[d & 7] >> 7) if d & 8 else both[d] for d in digits), "little")


def logic(a: int, b: int, c: int, table: int) -> int:
    rows = [(a >> k & 1) << 2 | (b >> k & 1) << 1 | (c >> k & 1) for k in range(32)]
    return sum((table >> row & 1) << k for k, row in enumerate(rows))


def bit_cases() -> Iterator[Case]:
    for t in ("b16", "b32", "b64"):
        width = 8 * size_of(t)
        yield Case(f"and.{t}", t, (t, t), operator.and_)
        yield Case(f"or.{t}", t, (t, t), operator.or_)
        yield Case(f"xor.{t}", t, (t, t), operator.xor)
        yield Case(f"not.{t}", t, (t,), operator.invert)
        yield Case(f"shl.{t}", t, (t, "u32"), lambda a, b, width=width: a << b if b < width else 0, {1: SHIFTS})
        yield Case(f"setp.eq.{t}", "pred", (t, t), operator.eq)
        yield Case(f"setp.ne.{t}", "pred", (t, t), operator.ne)
    three = ("b32", "b32", "b32")
    yield Case("bfe.u32", "u32", three, unsigned_field, {1: PLACES, 2: PLACES})
    yield Case("bfe.s32", "b32", three, signed_field, {1: PLACES, 2: PLACES})
    yield Case("bfi.b32", "b32", (*three, "b32"), inserted, {2: PLACES, 3: PLACES})
    yield Case("brev.b32", "b32", ("b32",), lambda a: int(f"{a:032b}"[::-1], 2))
    yield Case("popc.b32", "u32", ("b32",), int.bit_count)
    yield Case("clz.b32", "u32", ("b32",), lambda a: 32 - a.bit_length())
    yield Case("bfind.u32", "u32", ("u32",), lambda a: a.bit_length() - 1)
    yield Case("bfind.shiftamt.u32", "u32", ("u32",), lambda a: 32 - a.bit_length() if a else -1)
    yield Case("prmt.b32", "b32", three, permuted)
    yield Case("lop3.b32", "b32", (*three, "b32"), logic)
    yield Case("shf.l.wrap.b32", "b32", three, lambda a, b, c: (b << 32 | a) << (c & 31) >> 32)
    yield Case("shf.r.wrap.b32", "b32", three, lambda a, b, c: (b << 32 | a) >> (c & 31))
    for t in ("b32", "b64"):
        yield Case(f"mov.{t}", t, (t,), lambda a: a)
        yield Case(f"selp.{t}", t, (t, t, "pred"), lambda a, b, p: a if p else b)
    yield Case("mov.pred", "pred", ("pred",), lambda a: a)
    yield Case("not.pred", "pred", ("pred",), lambda a: not a)
    yield Case("and.pred", "pred", ("pred", "pred"), operator.and_)
    yield Case("or.pred", "pred", ("pred", "pred"), operator.or_)
    yield Case("xor.pred", "pred", ("pred", "pred"), operator.xor)


def chosen(nan_wins: bool, choose: Callable[[float, float], bool]) -> Callable[[float, float], float]:
    """Returns min or max. -0 is below +0."""

    def define(a: float, b: float) -> float:
        if a != a or b != b:
            return math.nan if nan_wins or (a != a and b != b) else b if a != a else a
        first, second = ((x, math.copysign(1, x)) for x in (a, b))
        return a if choose(first, second) else b

    return define


def flushed(function: Callable[..., object], t: str = "f32") -> Callable[..., object]:
    """Returns the function of operands and with a result of which subnormal numbers are zero."""

    def flush(x: float) -> float:
        return math.copysign(0.0, x) if abs(x) < 2.0**-126 else x

    def define(*values: float) -> float:
        result = function(*map(flush, values))
        return flush(FLOATS[t].decode(FLOATS[t].encode(result)))

    return define


def float_cases() -> Iterator[Case]:
    arithmetic = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}
    for t in ("f32", "f64"):
        for name, function in arithmetic.items():
            for rounding in ("", ".rn"):
                yield Case(f"{name}{rounding}.{t}", t, (t, t), exactly(function))
        yield Case(f"fma.rn.{t}", t, (t, t, t), exactly(lambda a, b, c: a * b + c))
        yield Case(f"div.rn.{t}", t, (t, t), exactly(operator.truediv))
        yield Case(f"rcp.rn.{t}", t, (t,), exactly(lambda a: 1 / a))
        yield Case(f"sqrt.rn.{t}", t, (t,), lambda a: math.sqrt(a) if a >= 0 else math.nan)
        yield Case(f"neg.{t}", t, (t,), operator.neg)
        yield Case(f"abs.{t}", t, (t,), abs)
        for name, choose in (("min", operator.le), ("max", operator.ge)):
            yield Case(f"{name}.{t}", t, (t, t), chosen(False, choose))
            yield Case(f"{name}.NaN.{t}", t, (t, t), chosen(True, choose))
    for name, function in arithmetic.items():
        yield Case(f"{name}.ftz.f32", "f32", ("f32", "f32"), flushed(exactly(function)))
    yield Case("fma.rn.ftz.f32", "f32", ("f32",) * 3, flushed(exactly(lambda a, b, c: a * b + c)))
    yield Case("neg.ftz.f32", "f32", ("f32",), flushed(operator.neg))
    yield Case("abs.ftz.f32", "f32", ("f32",), flushed(abs))
    yield Case("min.ftz.f32", "f32", ("f32", "f32"), flushed(chosen(False, operator.le)))
    yield Case("max.ftz.f32", "f32", ("f32", "f32"), flushed(chosen(False, operator.ge)))
    for t in FLOATS:
        for name, compare in COMPARISONS.items():
            ordered = {"ne": lambda a, b: a < b or a > b}.get(name, compare)
            yield Case(f"setp.{name}.{t}", "pred", (t, t), ordered)
            either = lambda a, b, ordered=ordered: ordered(a, b) or a != a or b != b  # noqa: E731
            yield Case(f"setp.{name}u.{t}", "pred", (t, t), either)
        yield Case(f"setp.num.{t}", "pred", (t, t), lambda a, b: a == a and b == b)
        yield Case(f"setp.nan.{t}", "pred", (t, t), lambda a, b: a != a or b != b)


def pairwise(t: str, function: Callable[..., object]) -> Callable[..., int]:
    """Returns the function of both halves of words."""

    def define(*words: int) -> int:
        halves = [[FLOATS[t].decode(word >> shift & 0xFFFF) for word in words] for shift in (0, 16)]
        low, high = (FLOATS[t].encode(function(*values)) for values in halves)
        return high << 16 | low

    return define


def half_cases() -> Iterator[Case]:
    for t in ("bf16", "f16"):
        functions = {
            **{f"{name}{rn}": (exactly(f), 2) for name, f in ARITHMETIC.items() for rn in ("", ".rn")},
            "fma.rn": (exactly(lambda a, b, c: a * b + c), 3),
            "neg": (operator.neg, 1),
            "abs": (abs, 1),
        }
        for name, (function, operands) in functions.items():
            yield Case(f"{name}.{t}", t, (t,) * operands, function)
            yield Case(f"{name}.{t}x2", f"{t}x2", (f"{t}x2",) * operands, pairwise(t, function))


ARITHMETIC = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}
ROUNDINGS = {"rzi": math.trunc, "rni": round, "rmi": math.floor, "rpi": math.ceil}
LIMITS = {
    t: ((-(1 << 8 * size_of(t) - 1), (1 << 8 * size_of(t) - 1) - 1) if t[0] == "s" else (0, (1 << 8 * size_of(t)) - 1))
    for t in INTEGERS
}


def to_integer(rounding: Callable[[float], int], limits: tuple[int, int]) -> Callable[[float], int]:
    """Returns the conversion. NaN becomes 0, and what is beyond the limits becomes the nearest of them."""

    def define(x: float) -> int:
        if x != x:
            return 0
        if math.isinf(x):
            return limits[x > 0]
        return min(max(rounding(x), limits[0]), limits[1])

    return define


def round_to(rounding: Callable[[float], int]) -> Callable[[float], float]:
    return lambda x: x if not math.isfinite(x) else math.copysign(float(rounding(x)), x)


def conversion_cases() -> Iterator[Case]:
    integers = ("s8", "u8", *INTEGERS)
    for source in integers:
        for to in integers:
            yield Case(f"cvt.{to}.{source}", to, (source,), lambda a: a)
        for to in ("f32", "f64"):
            yield Case(f"cvt.rn.{to}.{source}", to, (source,), Fraction)
    for t in ("f32", "f64"):
        for name, rounding in ROUNDINGS.items():
            for to in ("s32", "u32", "s64", "u64"):
                yield Case(f"cvt.{name}.{to}.{t}", to, (t,), to_integer(rounding, LIMITS[to]))
            yield Case(f"cvt.{name}.{t}.{t}", t, (t,), round_to(rounding))
    yield Case("cvt.rzi.ftz.s32.f32", "s32", ("f32",), to_integer(math.trunc, LIMITS["s32"]))
    yield Case("cvt.f64.f32", "f64", ("f32",), lambda a: a)
    yield Case("cvt.rn.f32.f64", "f32", ("f64",), lambda a: a)
    is_finite = lambda a: a & 0x7F800000 != 0x7F800000  # noqa: E731
    yield Case("cvt.rna.tf32.f32", "b32", ("b32",), lambda a: (a + 0x1000 * is_finite(a)) & 0xFFFFE000)
    for t in ("bf16", "f16"):
        yield Case(f"cvt.f32.{t}", "f32", (t,), lambda a: a)
        yield Case(f"cvt.f64.{t}", "f64", (t,), lambda a: a)
        yield Case(f"cvt.rn.{t}.f32", t, ("f32",), lambda a: a)
        two = lambda a, b, t=t: FLOATS[t].encode(a) << 16 | FLOATS[t].encode(b)  # noqa: E731
        yield Case(f"cvt.rn.{t}x2.f32", f"{t}x2", ("f32", "f32"), two)


CASES = [*integer_cases(), *bit_cases(), *float_cases(), *half_cases(), *conversion_cases()]

# {opcode: (function, largest relative error that the manual documents)}
APPROXIMATE = {
    "ex2.approx.f32": (lambda a: 2.0 ** max(min(a, 1000), -1000), 2.0**-22),
    "lg2.approx.f32": (lambda a: math.log2(a) if a > 0 else -math.inf if a == 0 else math.nan, 2.0**-22),
    "rsqrt.approx.f32": (lambda a: 1 / math.sqrt(a) if a > 0 else math.inf if a == 0 else math.nan, 2.0**-22.9),
    "sqrt.approx.f32": (lambda a: math.sqrt(a) if a >= 0 else math.nan, 2.0**-23),
    "rcp.approx.ftz.f32": (exactly(lambda a: 1 / a), 2.0**-23),
    "div.full.f32": (exactly(operator.truediv), 2.0**-22),
    "div.approx.f32": (exactly(operator.truediv), 2.0**-22),
}
FLUSHING = [name.replace(".f32", ".ftz.f32") for name in APPROXIMATE if "ftz" not in name]
OTHER_TESTS = {  # of opcodes that are more than a function of one lane's values: test_memory.py, test_matrices.py
    *("ld.shared", "st.shared", "ld.global", "st.global", "ld.param", "fence", "nothing", "special", "pack", "unpack"),
    *("narrow", "widen.s", "widen.u", "ldmatrix", "stmatrix", "fence.proxy.async", "bar.warp.sync"),
}
OTHER_FAMILIES = ("atom.", "cp.async", "shfl.", "redux.", "vote.", "mma.", "wgmma")


def interesting(kind: str, generator: random.Random) -> list[int]:
    """Returns the bits of values of a type: limits, small numbers, and random ones."""
    width = 8 * size_of(kind)
    if not width:
        return [generator.getrandbits(1) for _ in range(COUNT)]
    edges = [
        0,
        1,
        2,
        3,
        (1 << width) - 1,
        (1 << width) - 2,
        1 << (width - 1),
        (1 << (width - 1)) - 1,
        0x5A5A5A5A5A5A5A5A,
    ]
    if kind in FLOATS:
        form = FLOATS[kind]
        numbers = [
            0.0,
            -0.0,
            1.0,
            -1.5,
            2.5,
            1e-40,
            -3e-39,
            1e38,
            math.inf,
            -math.inf,
            math.nan,
            0.5,
            1.5,
            2147483648.0,
        ]
        near = [form.encode(generator.uniform(-4, 4)) for _ in range(COUNT // 2)]
        edges = [form.encode(x) for x in numbers] + near
    values = edges + [generator.getrandbits(width) for _ in range(COUNT - len(edges))]
    generator.shuffle(values)
    return [x & ((1 << width) - 1) for x in values]


def inputs_of(case: Case) -> list[tuple[str, np.ndarray]]:
    generator = random.Random(case.opcode)
    columns = []
    for k, kind in enumerate(case.sources):
        allowed = (case.inputs or {}).get(k)
        values = [generator.choice(allowed) for _ in range(COUNT)] if allowed else interesting(kind, generator)
        columns.append((kind, np.array(values, f"u{size_of(kind) or 4}")))
    return columns


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.opcode)
def test_computes_its_definition(case):
    inputs = inputs_of(case)
    results = apply(case.opcode, case.result, inputs)
    for lane, bits in enumerate(results.tolist()):
        values = [read(kind, int(array[lane])) for kind, array in inputs]
        expected = case.define(*values)
        if expected is None:
            continue
        got, wanted = bits & ((1 << 8 * (size_of(case.result) or 1)) - 1), write(case.result, expected)
        assert same(case.result, got, wanted), (values, read(case.result, got), expected)


def same(kind: str, got: int, wanted: int) -> bool:
    """Returns whether bits are equal, where all NaN are equal."""
    if kind in FLOATS and FLOATS[kind].decode(wanted) != FLOATS[kind].decode(wanted):
        return FLOATS[kind].decode(got) != FLOATS[kind].decode(got)
    if kind in ("bf16x2", "f16x2"):
        return all(same(kind[:-2], got >> shift & 0xFFFF, wanted >> shift & 0xFFFF) for shift in (0, 16))
    return got == wanted


@pytest.mark.parametrize("disturbed", [False, True])
@pytest.mark.parametrize("opcode", [*APPROXIMATE, *FLUSHING])
def test_approximate_instructions_are_as_exact_as_documented(opcode, disturbed):
    """Undisturbed they are as exact as float32, disturbed almost as inexact as the manual allows."""
    function, bound = APPROXIMATE.get(opcode) or APPROXIMATE[opcode.replace(".ftz", "")]
    generator = random.Random(opcode)
    positive = opcode.startswith(("rsqrt", "sqrt", "lg2"))
    numbers = [generator.uniform(0.01 if positive else -60, 60) for _ in range(COUNT - 32)] + [
        2.0**k for k in range(-26, 6)
    ]
    bits = np.array([FLOATS["f32"].encode(x) for x in numbers], "u4")
    sources = [("f32", bits), ("f32", np.roll(bits, 5))] if opcode.startswith("div") else [("f32", bits)]
    results = apply(opcode, "f32", sources, disturbed=disturbed)
    errors = []
    for lane, result in enumerate(results.tolist()):
        exact = float(function(*(FLOATS["f32"].decode(int(array[lane])) for _, array in sources)))
        size = max(abs(exact), 1.0 if opcode.startswith("lg2") else 0.0)
        errors.append(abs(FLOATS["f32"].decode(result) - exact) / size)
    if disturbed:
        assert 0.6 * bound < max(errors) <= bound
    else:
        assert max(errors) <= 2.0**-24 * 1.0001


@pytest.mark.parametrize("opcode", [*APPROXIMATE, *FLUSHING])
def test_approximate_instructions_have_the_limits_of_the_exact_ones(opcode):
    function, _ = APPROXIMATE.get(opcode) or APPROXIMATE[opcode.replace(".ftz", "")]
    numbers = [0.0, math.inf, math.nan, 1.0] * 8
    bits = np.array([FLOATS["f32"].encode(x) for x in numbers], "u4")
    two = opcode.startswith("div")
    sources = [("f32", bits), ("f32", np.roll(bits, 2))] if two else [("f32", bits)]
    for lane, result in enumerate(apply(opcode, "f32", sources).tolist()):
        values = [FLOATS["f32"].decode(int(array[lane])) for _, array in sources]
        exact = math.nan if any(x != x for x in values) else function(*values)
        wanted = (
            FLOATS["f32"].encode(exact)
            if not isinstance(exact, float) or exact < 1e38 or exact != exact
            else FLOATS["f32"].encode(math.inf)
        )
        assert same("f32", result, wanted), (values, exact)


def test_approximate_instructions_flush_subnormal_numbers():
    tiny = np.full(32, struct.unpack("I", struct.pack("f", 1e-40))[0], "u4")
    one = np.full(32, 0x3F800000, "u4")
    assert set(apply("rsqrt.approx.ftz.f32", "f32", [("f32", tiny)])) == {0x7F800000}
    assert set(apply("div.full.ftz.f32", "f32", [("f32", tiny), ("f32", one)])) == {0}
    assert set(apply("ex2.approx.ftz.f32", "f32", [("f32", np.full(32, 0xC3010000, "u4"))])) == {0}  # 2^-129


def test_every_opcode_has_a_test():
    tested = {case.opcode for case in CASES} | {*APPROXIMATE, *FLUSHING} | OTHER_TESTS
    untested = {
        name for name in interpreter.opcode_numbers() if name not in tested and not name.startswith(OTHER_FAMILIES)
    }
    assert untested == set()
    assert tested <= set(interpreter.opcode_numbers())
