"""Loads, stores, atomic operations, copies, and exchanges between lanes, against what the manual says they do."""

import numpy as np
import pytest

from tests.ptx import interpreter
from tests.ptx.interpreter import REVERSE, ROUND_ROBIN
from tests.ptx.one_instruction import apply, kernel, run

pytestmark = pytest.mark.skipif(interpreter.COMPILER is None, reason="no C++ compiler")
LANE = np.arange(32, dtype="u4")


def check(body: str, arrays: list[np.ndarray], **options: object) -> None:
    """Runs a kernel that must not do anything wrong."""
    outcome = run(kernel(len(arrays), body), arrays, **options)
    assert outcome.complaints == 0, outcome.log


@pytest.mark.parametrize("kind, dtype", [("s8", "i1"), ("u8", "u1"), ("s16", "i2"), ("u16", "u2")])
@pytest.mark.parametrize("space", ["global", "shared"])
def test_narrow_loads_are_extended_by_their_sign(kind, dtype, space):
    values, out, wide = np.arange(-16, 16).astype(dtype), np.zeros(32, "i4"), np.zeros(32, "i8")
    size = values.itemsize
    through_shared = f"""
        mul.lo.u32 %r2, %r90, {size}; st.shared.{kind} [%r2], %h1;
        ld.shared.{kind} %r1, [%r2]; ld.shared.{kind} %d4, [%r2];
    """
    check(
        f"""
        mad.wide.u32 %d1, %r90, {size}, %a0; mad.wide.u32 %d2, %r90, 4, %a1; mad.wide.u32 %d3, %r90, 8, %a2;
        ld.global.{kind} %h1, [%d1]; ld.global.{kind} %r1, [%d1]; ld.global.{kind} %d4, [%d1];
        {through_shared if space == "shared" else ""}
        st.global.b32 [%d2], %r1; st.global.b64 [%d3], %d4;
        """,
        [values, out, wide],
        shared=128,
    )
    assert out.tolist() == values.tolist() and wide.tolist() == values.tolist()


def test_vectors_and_offsets():
    source, out = np.arange(132, dtype="u4"), np.zeros(128, "u4")
    check(
        """
        mad.wide.u32 %d1, %r90, 16, %a0; mad.wide.u32 %d2, %r90, 16, %a1; mul.lo.u32 %r2, %r90, 16;
        ld.global.v4.b32 {%r3, %r4, %r5, %r6}, [%d1+16];
        st.shared.v2.b32 [%r2+8], {%r3, %r4}; st.shared.v2.b32 [%r2], {%r5, %r6};
        ld.shared.v4.b32 {%r3, _, %r5, %r6}, [%r2];
        st.global.v4.b32 [%d2], {%r3, %r4, %r5, %r6};
        """,
        [source, out],
        shared=512,
    )
    lane = source[4:].reshape(32, 4)
    assert np.array_equal(out.reshape(32, 4), np.stack([lane[:, 2], lane[:, 1], lane[:, 0], lane[:, 1]], 1))


def test_each_thread_has_its_own_local_memory():
    source, out = np.arange(1, 65, dtype="u2"), np.zeros(64, "u2")
    check(
        """
        .local .align 2 .b8 padding[2]; .local .align 4 .b8 own[4];
        mov.b32 %r1, own; cvt.u64.u32 %d1, %r1; cvta.local.u64 %d1, %d1;
        mad.wide.u32 %d2, %r90, 2, %a0; mad.wide.u32 %d3, %r90, 2, %a1; ld.global.b16 %h1, [%d2];
        st.b8 [%d1], %h1; shr.u16 %h1, %h1, 8; st.b8 [%d1+1], %h1; st.b16 [%d1+2], %h1; bar.sync 0;
        ld.b16 %h2, [%d1]; st.global.b16 [%d3], %h2;
        """,
        [source * 1000, out],
        threads=64,
    )
    assert out.tolist() == (source * 1000).tolist()


def test_packing_and_special_registers():
    out = np.zeros((2, 64, 4), "u4")
    check(
        """
        mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %nctaid.x; mov.u32 %r8, %laneid;
        mad.lo.u32 %r5, %r2, %r3, %r1; mad.wide.u32 %d1, %r5, 16, %a0;
        mov.b64 %d2, {%r1, %r2}; mov.b64 {%r6, %r7}, %d2; mov.b32 {%h1, %h2}, 0x00050007; mov.b32 %r9, {%h2, %h1};
        mad.lo.u32 %r9, %r4, 0x10000000, %r9; st.global.v4.b32 [%d1], {%r6, %r7, %r8, %r9};
        """,
        [out],
        threads=64,
        grid=2,
    )
    expected = [[[t, c, t % 32, 0x20070005] for t in range(64)] for c in range(2)]
    assert out.tolist() == expected


def test_constant_predicates_hold_in_all_lanes():
    out = np.zeros((32, 3), "u4")
    check(
        """
        mov.pred %p1, -1; mov.pred %p2, 1; mov.pred %p3, 0; mad.wide.u32 %d1, %r90, 12, %a0;
        selp.b32 %r1, 5, 6, %p1; selp.b32 %r2, 5, 6, %p2; selp.b32 %r3, 5, 6, %p3;
        st.global.b32 [%d1], %r1; st.global.b32 [%d1+4], %r2; st.global.b32 [%d1+8], %r3;
        """,
        [out],
    )
    assert out.tolist() == [[5, 5, 6]] * 32


@pytest.mark.parametrize(
    "opcode, dtype, function",
    [
        ("add.u32", "u4", np.add),
        ("max.s32", "i4", np.maximum),
        ("min.s32", "i4", np.minimum),
        ("add.u64", "u8", np.add),
    ],
)
def test_atomic_operations_return_what_was_there(opcode, dtype, function):
    values, cell, before = np.arange(32)[::-1].astype(dtype) - 5, np.full(1, 3, dtype), np.zeros(32, dtype)
    size, register = values.itemsize, "%r" if values.itemsize == 4 else "%d"
    check(
        f"""
        mad.wide.u32 %d1, %r90, {size}, %a0; mad.wide.u32 %d2, %r90, {size}, %a2;
        ld.global.b{8 * size} {register}5, [%d1];
        atom.global.{opcode} {register}6, [%a1], {register}5; st.global.b{8 * size} [%d2], {register}6;
        """,
        [values, cell, before],
    )
    states = [np.array(3, dtype)]
    for value in values:
        states.append(function(states[-1], value))
    assert before.tolist() == [x.item() for x in states[:-1]] and cell[0] == states[-1]


def test_an_exchange_stores_the_last_value():
    cell, before = np.array([9], "u4"), np.zeros(32, "u4")
    body = "mad.wide.u32 %d1, %r90, 4, %a1; atom.global.exch.b32 %r1, [%a0], %r90; st.global.b32 [%d1], %r1;"
    check(body, [cell, before])
    assert before.tolist() == [9, *range(31)] and cell[0] == 31


@pytest.mark.parametrize("late", [False, True])
def test_copies_arrive_when_their_group_is_waited_for(late):
    """The first word of 16 bytes is read, the others become 0. wait_group 1 leaves the second group on its way."""
    source, out = np.arange(64, dtype="u4"), np.zeros(64, "u4")
    check(
        """
        mad.wide.u32 %d1, %r90, 4, %a0; mad.wide.u32 %d2, %r90, 8, %a1; mul.lo.u32 %r1, %r90, 16; add.u32 %r2, %r1, 512;
        cp.async.ca.shared.global [%r1+0], [%d1+0], 4, 4; cp.async.commit_group;
        cp.async.ca.shared.global [%r2], [%d1+128], 4, 0; cp.async.commit_group; cp.async.wait_group 1;
        ld.shared.b32 %r3, [%r1]; cp.async.wait_group 0; ld.shared.b32 %r4, [%r2]; st.global.v2.b32 [%d2], {%r3, %r4};
        """,
        [source, out],
        shared=1024,
        late=late,
    )
    assert out.reshape(32, 2).tolist() == [[lane, 0] for lane in range(32)]


SHUFFLES = {  # (value for lane l of its source lane, with offset 3, in segments of 8 lanes)
    "bfly": lambda lane: lane ^ 3,
    "idx": lambda lane: lane // 8 * 8 + 3,
    "up": lambda lane: lane - 3 if lane % 8 >= 3 else lane,
    "down": lambda lane: lane + 3 if lane % 8 < 5 else lane,
}


@pytest.mark.parametrize("kind", SHUFFLES)
def test_shuffles_within_segments(kind):
    clamp = 0x1800 if kind == "up" else 0x181F
    results = apply(f"shfl.sync.{kind}.b32", "b32", [("b32", LANE + 100)], f", 3, {clamp}, -1")
    assert results.tolist() == [100 + SHUFFLES[kind](lane) for lane in range(32)]


def test_a_shuffle_says_whether_its_source_is_in_the_segment():
    out = np.zeros(32, "u4")
    check(
        "shfl.sync.down.b32 %r1|%p1, %r90, 3, 0x181f, -1; selp.b32 %r2, 1, 0, %p1;"
        "mad.wide.u32 %d1, %r90, 4, %a0; st.global.b32 [%d1], %r2;",
        [out],
    )
    assert out.tolist() == [int(lane % 8 < 5) for lane in range(32)]


@pytest.mark.parametrize(
    "opcode, function",
    [
        ("add.s32", np.sum),
        ("add.u32", np.sum),
        ("min.s32", np.min),
        ("max.s32", np.max),
        ("min.u32", np.min),
        ("max.u32", np.max),
        ("and.b32", np.bitwise_and.reduce),
        ("or.b32", np.bitwise_or.reduce),
        ("xor.b32", np.bitwise_xor.reduce),
    ],
)
def test_reductions_over_the_lanes(opcode, function):
    values = (LANE.astype("u8") * 2654435761 % 2**32).astype("u4")
    expected = int(function(values.view("i4") if ".s" in opcode else values)) % 2**32
    assert set(apply(f"redux.sync.{opcode}", "b32", [("b32", values)], ", -1").tolist()) == {expected}


def test_ballot():
    assert set(apply("vote.sync.ballot.b32", "b32", [("pred", LANE % 3 == 0)], ", -1").tolist()) == {
        sum(1 << k for k in range(0, 32, 3))
    }


DIVERGING = """
mad.wide.u32 %d1, %r90, 4, %a0; mov.b32 %r1, 0; mov.b32 %r2, 0;
$again: setp.ge.u32 %p1, %r2, %r90; @%p1 bra $after;
and.b32 %r3, %r2, 1; setp.eq.b32 %p2, %r3, 0; @%p2 bra $even;
add.u32 %r1, %r1, 100; bra.uni $next;
$even: add.u32 %r1, %r1, 1;
$next: add.u32 %r2, %r2, 1; bra.uni $again;
$after: setp.eq.b32 %p3, %r90, 5; @%p3 ret;
shfl.sync.bfly.b32 %r4, %r1, 0, 31, 0xffffffdf; st.global.b32 [%d1], %r1;
"""


@pytest.mark.parametrize("schedule", [0, REVERSE, ROUND_ROBIN])
def test_lanes_take_branches_of_their_own_and_meet_again(schedule):
    """Lane n counts to n. Lane 5 ends early. All others are together for the shuffle."""
    out = np.zeros(32, "u4")
    check(DIVERGING, [out], schedule=schedule)
    assert out.tolist() == [0 if n == 5 else (n + 1) // 2 + n // 2 * 100 for n in range(32)]


@pytest.mark.parametrize("schedule", [0, REVERSE, ROUND_ROBIN])
def test_a_program_may_wait_for_another_one_that_runs_at_the_same_time(schedule):
    """Program 0 waits until program 1 has written."""
    flag, data, out = np.zeros(1, "u4"), np.zeros(32, "u4"), np.zeros(32, "u4")
    check(
        """
        mov.u32 %r1, %ctaid.x; mad.wide.u32 %d1, %r90, 4, %a1; mad.wide.u32 %d2, %r90, 4, %a2; setp.eq.b32 %p1, %r1, 0;
        @%p1 bra $wait;
        add.u32 %r2, %r90, 7; st.global.b32 [%d1], %r2; bar.sync 0; setp.ne.b32 %p2, %r90, 0; @%p2 ret;
        atom.acq_rel.gpu.global.add.u32 %r3, [%a0], 1; ret;
        $wait: ld.acquire.gpu.global.b32 %r4, [%a0]; setp.eq.b32 %p3, %r4, 0; @%p3 bra $wait;
        ld.global.b32 %r5, [%d1]; st.global.b32 [%d2], %r5;
        """,
        [flag, data, out],
        grid=2,
        residents=2,
        schedule=schedule,
    )
    assert out.tolist() == list(range(7, 39))
