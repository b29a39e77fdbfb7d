"""ldmatrix, stmatrix, mma and wgmma against products of matrices in float64, in the layouts of the manual."""

import numpy as np
import pytest

from tests.ptx import interpreter
from tests.ptx.numbers_of import FLOATS
from tests.ptx.one_instruction import kernel, run

pytestmark = pytest.mark.skipif(interpreter.COMPILER is None, reason="no C++ compiler")
LANES = range(32)


def numbers(kind: str, *shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns random numbers of a type as bits and as float64. A tf32 is a float32 with 13 bits of zero at the end."""
    values = np.random.default_rng(seed).standard_normal(shape)
    form = FLOATS["f32" if kind == "tf32" else kind]
    bits = np.array([form.encode(float(x)) for x in values.flat], "u4" if kind == "tf32" else "u2").reshape(shape)
    if kind == "tf32":
        bits &= 0xFFFFE000
    return bits, np.array([form.decode(int(x)) for x in bits.flat]).reshape(shape)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_matrices_travel_between_shared_memory_and_lanes(count, transposed):
    """They are loaded, perhaps transposed, and stored as they are."""
    matrices, out = np.arange(64 * count, dtype="u2").reshape(count, 8, 8), np.zeros((count, 8, 8), "u2")
    registers = "{" + ", ".join(f"%r{k}" for k in range(1, 1 + count)) + "}"
    trans = ".trans" if transposed else ""
    body = f"""
        shl.b32 %r20, %r90, 4; setp.lt.u32 %p1, %r90, {8 * count}; mad.wide.u32 %d1, %r90, 16, %a0;
        mad.wide.u32 %d2, %r90, 16, %a1;
        @%p1 ld.global.v4.b32 {{%r10, %r11, %r12, %r13}}, [%d1];
        @%p1 st.shared.v4.b32 [%r20], {{%r10, %r11, %r12, %r13}};
        bar.sync 0; ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {registers}, [%r20];
        bar.sync 0; stmatrix.sync.aligned.m8n8.x{count}.shared.b16 [%r20], {registers}; bar.sync 0;
        @%p1 ld.shared.v4.b32 {{%r10, %r11, %r12, %r13}}, [%r20];
        @%p1 st.global.v4.b32 [%d2], {{%r10, %r11, %r12, %r13}};
    """
    outcome = run(kernel(2, body), [matrices, out], shared=512)
    assert outcome.complaints == 0, outcome.log
    assert np.array_equal(out, matrices.swapaxes(1, 2) if transposed else matrices)


def test_a_lane_holds_two_neighbours_of_a_row():
    matrix, out = np.arange(64, dtype="u2").reshape(8, 8), np.zeros(32, "u4")
    body = """
        shl.b32 %r1, %r90, 2; mad.wide.u32 %d1, %r90, 4, %a0; mad.wide.u32 %d2, %r90, 4, %a1; ld.global.b32 %r2, [%d1];
        st.shared.b32 [%r1], %r2; bar.sync 0; shl.b32 %r3, %r90, 4; and.b32 %r3, %r3, 127;
        ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r4}, [%r3]; st.global.b32 [%d2], %r4;
    """
    outcome = run(kernel(2, body), [matrix, out], shared=128)
    assert outcome.complaints == 0, outcome.log
    row, column = np.arange(32) // 4, np.arange(32) % 4 * 2
    assert np.array_equal(out, matrix[row, column] | matrix[row, column + 1].astype("u4") << 16)


def packed(matrix: np.ndarray, row: int, column: int, count: int) -> int:
    """Returns `count` neighbours of a row as a 32-bit register."""
    return sum(int(matrix[row, column + k]) << (32 // count * k) for k in range(count))


MMA = [("bf16", 16), ("bf16", 8), ("f16", 16), ("f16", 8), ("tf32", 8), ("tf32", 4)]


@pytest.mark.parametrize("disturbed", [False, True])
@pytest.mark.parametrize("kind, depth", MMA)
def test_products_of_a_warp(kind, depth, disturbed):
    """The manual's layouts: a register holds 2 numbers of 16 bits or one tf32. d = a b + c."""
    (a_bits, a), (b_bits, b) = numbers(kind, 16, depth), numbers(kind, depth, 8, seed=1)
    c = np.random.default_rng(2).standard_normal((16, 8)).astype("f4")
    n = 1 if kind == "tf32" else 2
    a_registers = [
        [packed(a_bits, lane // 4 + 8 * (r % 2), n * (lane % 4) + 4 * n * (r // 2), n) for r in range(depth // (2 * n))]
        for lane in LANES
    ]
    b_registers = [
        [packed(b_bits.T, lane // 4, n * (lane % 4) + 4 * n * r, n) for r in range(depth // (4 * n))] for lane in LANES
    ]
    place = [[(lane // 4 + 8 * (r // 2), lane % 4 * 2 + r % 2) for r in range(4)] for lane in LANES]
    c_registers = [[int(c[at].view("u4")) for at in ats] for ats in place]
    lanes = np.array([x + y + z for x, y, z in zip(a_registers, b_registers, c_registers)], "u4")
    count, out = lanes.shape[1], np.zeros((32, 4), "f4")
    names = [f"%r{k}" for k in range(count)]
    first, second = depth // (2 * n), depth // (2 * n) + depth // (4 * n)
    groups = [names[:first], names[first:second], names[second:]]
    body = f"mad.wide.u32 %d1, %r90, {4 * count}, %a0; mad.wide.u32 %d2, %r90, 16, %a1;"
    body += "".join(f"ld.global.b32 {name}, [%d1+{4 * k}];" for k, name in enumerate(names))
    body += f"mma.sync.aligned.m16n8k{depth}.row.col.f32.{kind}.{kind}.f32 {{%r60, %r61, %r62, %r63}}, "
    body += ", ".join("{" + ", ".join(group) + "}" for group in groups) + ";"
    body += "st.global.v4.b32 [%d2], {%r60, %r61, %r62, %r63};"
    outcome = run(kernel(2, body), [lanes, out], disturbed=disturbed)
    assert outcome.complaints == 0, outcome.log
    exact = a @ b + c
    error = max(abs(out[lane, r] - exact[place[lane][r]]) for lane in LANES for r in range(4))
    size = np.abs(a).max() * np.abs(b).max()
    assert error <= (depth + 2) * 2.0**-24 * size if disturbed else error <= 2.0**-23 * np.abs(exact).max()
    if disturbed:
        assert error > 2.0**-23 * np.abs(exact).max() / 4


def test_products_of_doubles():
    generator = np.random.default_rng(0)
    a, b, c = generator.standard_normal((8, 4)), generator.standard_normal((4, 8)), generator.standard_normal((8, 8))
    lanes = np.array(
        [
            [a[lane // 4, lane % 4], b[lane % 4, lane // 4], c[lane // 4, lane % 4 * 2], c[lane // 4, lane % 4 * 2 + 1]]
            for lane in LANES
        ]
    )
    out = np.zeros((32, 2))
    body = """
        mad.wide.u32 %d1, %r90, 32, %a0; mad.wide.u32 %d2, %r90, 16, %a1; ld.global.v2.b64 {%d3, %d4}, [%d1];
        ld.global.v2.b64 {%d5, %d6}, [%d1+16];
        mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d7, %d8}, {%d3}, {%d4}, {%d5, %d6};
        st.global.v2.b64 [%d2], {%d7, %d8};
    """
    outcome = run(kernel(2, body), [lanes, out])
    assert outcome.complaints == 0, outcome.log
    np.testing.assert_allclose(out.reshape(8, 8), a @ b + c, rtol=1e-14)


SWIZZLES = {0: 16, 3: 32, 2: 64, 1: 128}  # {mode of the descriptor: bytes of a row of a core matrix}


def laid_out(matrix: np.ndarray, mode: int, transposed: bool) -> tuple[np.ndarray, int, int]:
    """Returns shared memory with a matrix whose rows run along M or N, and the leading and stride offsets in bytes.

    Core matrices have 8 rows of 16 bytes, or of the bytes of a swizzle. A swizzle exchanges pieces of 16 bytes: the
    number of a piece in its row is combined with that of the row by exclusive or.
    """
    row_bytes, size = SWIZZLES[mode], matrix.itemsize
    stored = matrix.T if transposed else matrix  # rows of the core matrices
    per_row = row_bytes // size
    rows, columns = stored.shape
    across = -(-columns // per_row)
    memory = np.zeros(rows // 8 * across * 8 * row_bytes, "u1")
    for row in range(rows):
        for column in range(columns):
            core = row // 8 * across + column // per_row
            at = core * 8 * row_bytes + row % 8 * row_bytes + column % per_row * size
            if mode:
                at ^= (at // 128 % (row_bytes // 16)) * 16
            memory[at : at + size] = stored[row, column : column + 1].view("u1")
    core_bytes = 8 * row_bytes
    return memory, core_bytes, across * core_bytes


WGMMA = [
    *(("bf16", mode, False, False, registers) for mode in SWIZZLES for registers in (False, True)),
    ("bf16", 1, False, True, True),
    ("bf16", 1, True, True, False),
    ("bf16", 2, True, False, False),
    ("f16", 1, False, False, False),
    ("tf32", 1, False, False, False),
    ("tf32", 1, False, False, True),
]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind, mode, a_transposed, b_transposed, in_registers", WGMMA)
def test_products_of_four_warps(kind, mode, a_transposed, b_transposed, in_registers, late):
    """d (64, 16) = a (64, K) b (K, 16) + 1, of which b, and a unless it is in registers, is in shared memory."""
    depth, columns = (8, 16) if kind == "tf32" else (16, 16)
    (a_bits, a), (b_bits, b) = numbers(kind, 64, depth), numbers(kind, columns, depth, seed=1)
    a_memory, a_leading, a_stride = laid_out(a_bits, mode, a_transposed)
    b_memory, b_leading, b_stride = laid_out(b_bits, mode, b_transposed)
    b_start = -(-len(a_memory) // 1024) * 1024
    memory = np.zeros(-(-(b_start + len(b_memory)) // 2048) * 2048, "u1")
    memory[: len(a_memory)], memory[b_start : b_start + len(b_memory)] = a_memory, b_memory
    n = 4 // a_bits.itemsize
    a_registers = np.array(
        [
            [
                packed(a_bits, t // 32 * 16 + t % 32 // 4 + 8 * (r % 2), n * (t % 4) + 4 * n * (r // 2), n)
                for r in range(4)
            ]
            for t in range(128)
        ],
        "u4",
    )
    out = np.zeros((128, 8), "f4")

    def descriptor(start: int, leading: int, stride: int) -> int:
        return start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | mode << 62

    first = "{%r1, %r2, %r3, %r4}" if in_registers else "%d4"
    transposes = (
        ""
        if kind == "tf32"
        else f", {int(b_transposed)}"
        if in_registers
        else f", {int(a_transposed)}, {int(b_transposed)}"
    )
    d = "{" + ", ".join(f"%r{k}" for k in range(10, 18)) + "}"
    body = f"""
        mad.wide.u32 %d1, %r90, 16, %a1; ld.global.v4.b32 {{%r1, %r2, %r3, %r4}}, [%d1]; mov.b32 %r30, 0;
        $copy: mad.lo.u32 %r31, %r90, 16, %r30; cvt.u64.u32 %d2, %r31; add.s64 %d3, %a0, %d2;
        ld.global.v4.b32 {{%r32, %r33, %r34, %r35}}, [%d3]; st.shared.v4.b32 [%r31], {{%r32, %r33, %r34, %r35}};
        add.u32 %r30, %r30, 2048; setp.lt.u32 %p1, %r30, {len(memory)}; @%p1 bra $copy;
        fence.proxy.async.shared::cta; bar.sync 0; wgmma.fence.sync.aligned;
        mov.b64 %d4, {descriptor(0, a_leading, a_stride)}; mov.b64 %d5, {descriptor(b_start, b_leading, b_stride)};
        {"".join(f"mov.b32 %r{k}, 0f3F800000;" for k in range(10, 18))} setp.eq.b32 %p2, %r90, %r90;
        wgmma.mma_async.sync.aligned.m64n16k{depth}.f32.{kind}.{kind} {d}, {first}, %d5, %p2, 1, 1{transposes};
        wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; mad.wide.u32 %d6, %r90, 32, %a2;
        {"".join(f"st.global.b32 [%d6+{4 * k}], %r{10 + k};" for k in range(8))}
    """
    outcome = run(kernel(3, body), [memory, a_registers, out], threads=128, shared=len(memory), late=late)
    assert outcome.complaints == 0, outcome.log
    exact = a @ b.T + 1
    result = np.zeros((64, columns))
    for t in range(128):
        for x in range(8):
            result[t // 32 * 16 + t % 32 // 4 + 8 * (x // 2 % 2), t % 4 * 2 + x % 2 + 8 * (x // 4)] = out[t, x]
    np.testing.assert_allclose(result, exact, atol=2.0**-23 * np.abs(exact).max())
