"""Kernels with one mistake each: the interpreter must report it, and nothing in the kernel without the mistake."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tests.ptx import interpreter
from tests.ptx.interpreter import REVERSE, ROUND_ROBIN
from tests.ptx.one_instruction import kernel, run

pytestmark = pytest.mark.skipif(interpreter.COMPILER is None, reason="no C++ compiler")


@dataclass(frozen=True)
class Mistake:
    """A kernel. `right` is the part of its text without which it is wrong, `wrong` what stands there instead.

    Its memory are 256 words at %a0 and at %a1. `log`: part of the report.
    """

    body: str
    right: str
    wrong: str
    log: str
    threads: int = 64
    grid: int = 1
    residents: int = 1


EXCHANGE = """
shl.b32 %r1, %r90, 2; mad.wide.u32 %d1, %r90, 4, %a0; mad.wide.u32 %d2, %r90, 4, %a1; ld.global.b32 %r2, [%d1];
st.shared.b32 [%r1], %r2; bar.sync 0;
xor.b32 %r3, %r1, 132; ld.shared.b32 %r4, [%r3]; {after} st.shared.b32 [%r1], %r90; st.global.b32 [%d2], %r4;
"""
COPY = """
shl.b32 %r1, %r90, 4; and.b32 %r2, %r90, 15; mad.wide.u32 %d1, %r2, 16, %a0; mad.wide.u32 %d2, %r90, 4, %a1;
cp.async.cg.shared.global [%r1], [%d1], 16; cp.async.commit_group;
cp.async.wait_group 0; ld.shared.b32 %r4, [%r1]; st.global.b32 [%d2], %r4;
"""
LOCAL = """
.local .align 4 .b8 own[8]; mov.b32 %r1, own; cvt.u64.u32 %d4, %r1; cvta.local.u64 %d4, %d4;
st.b32 [%d4], %r90; ld.b32 %r2, [%d4]; mad.wide.u32 %d1, %r90, 4, %a1; st.global.b32 [%d1], %r2;
"""
TURNS = """
mov.u32 %r1, %ctaid.x; mad.wide.u32 %d1, %r90, 4, %a0; setp.ne.b32 %p1, %r90, 0;
setp.eq.b32 %p2, %r1, 0; @!%p2 bra $second;
not.b32 %r6, %r90; st.global.b32 [%d1], %r6; bar.sync 0; @%p1 ret;
add.s64 %d4, %a1, 512; atom.acq_rel.gpu.global.add.u32 %r2, [%d4], 1; ret;
$second: add.s64 %d4, %a1, 512; @%p1 bra $there;
$wait: ld.acquire.gpu.global.b32 %r4, [%d4]; setp.eq.b32 %p3, %r4, 0; @%p3 bra $wait;
$there: bar.sync 0; ld.global.b32 %r5, [%d1]; mad.wide.u32 %d2, %r90, 4, %a1; st.global.b32 [%d2], %r5;
"""
FENCES = TURNS.replace("atom.acq_rel.gpu", "membar.gl; atom.relaxed.gpu").replace(
    "ld.acquire.gpu.global.b32 %r4, [%d4]", "atom.relaxed.gpu.global.add.u32 %r4, [%d4], 0; membar.gl"
)
PRODUCT = """
shl.b32 %r1, %r90, 4; mov.b32 %r2, 0; st.shared.v4.b32 [%r1], {%r2, %r2, %r2, %r2};
st.shared.v4.b32 [%r1+2048], {%r2, %r2, %r2, %r2}; mov.b32 %r3, 0; mov.b32 %r4, 0; mov.b32 %r5, 0; mov.b32 %r6, 0;
fence.proxy.async.shared::cta; bar.sync 0; wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16
{%r3, %r4, %r5, %r6}, 0x800080000, 0x800080080, 0, 1, 1, 0, 0;
wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; bar.sync 0;
st.shared.v4.b32 [%r1], {%r90, %r90, %r90, %r90}; mad.wide.u32 %d1, %r90, 4, %a1; st.global.b32 [%d1], %r3;
"""
OVERWRITES = "st.shared.v4.b32 [%r1], {%r90, %r90, %r90, %r90};"
WARP = """
shl.b32 %r1, %r90, 2; xor.b32 %r3, %r1, 4; st.shared.b32 [%r1], %r90; bar.warp.sync -1; ld.shared.b32 %r4, [%r3];
mad.wide.u32 %d2, %r90, 4, %a1; st.global.b32 [%d2], %r4;
"""
STORE = "mad.wide.u32 %d2, %r90, 4, %a1; st.global.b32 [%d2], %r90;"
PROGRAMS = "mov.u32 %r1, %ctaid.x; mad.lo.u32 %r2, %r1, 64, %r90;" + STORE.replace("%r90, 4", "%r2, 4")
SHUFFLE = "setp.eq.b32 %p1, %r90, 3; shfl.sync.bfly.b32 %r1, %r90, 1, 31, -1;"
RELAXED = "atom.relaxed.gpu.global.add.u32 %r2"

MISTAKES = {
    "no barrier before others' values are read": Mistake(
        EXCHANGE.format(after="bar.sync 0;"),
        "bar.sync 0;\nxor",
        "xor",
        "shared memory",
    ),
    "no barrier before they are overwritten": Mistake(
        EXCHANGE.format(after="bar.sync 0;"),
        "bar.sync 0; st",
        "st",
        "shared memory",
    ),
    "lanes of a warp store different values to one place": Mistake(
        "mov.b32 %r1, 5; add.u32 %r2, %r1, %r90; mov.b32 %r3, 0; st.shared.b32 [%r3], %r1;",
        "[%r3], %r1",
        "[%r3], %r2",
        "writes shared",
        threads=32,
    ),
    "lanes of a warp do not wait for each other": Mistake(
        WARP,
        "bar.warp.sync -1;",
        "",
        "reads shared",
    ),
    "a copy is not waited for": Mistake(
        COPY,
        "wait_group 0",
        "wait_group 1",
        "to which a copy may still arrive",
    ),
    "a copy is not committed": Mistake(
        COPY,
        "cp.async.commit_group;",
        "",
        "to which a copy may still arrive",
    ),
    "a copy arrives beyond shared memory": Mistake(
        COPY,
        "[%r1], [%d1]",
        "[%r1+3088], [%d1]",
        "out of bounds",
    ),
    "a copy begins at an odd address": Mistake(
        COPY,
        "[%d1], 16",
        "[%d1+8], 16",
        "misaligned",
    ),
    "two threads write the same place": Mistake(
        STORE,
        "%d2, %r90, 4",
        "%d2, 0, 4",
        "writes global",
    ),
    "a read of another thread's value": Mistake(
        STORE + "bar.sync 0; ld.global.b32 %r1, [%a1+4];",
        "bar.sync 0;",
        "",
        "reads global",
    ),
    "a write beyond the tensor": Mistake(
        STORE,
        "[%d2]",
        "[%d2+772]",
        "out of bounds",
    ),
    "a write before the tensor": Mistake(
        STORE,
        "[%d2]",
        "[%d2+-4]",
        "out of bounds",
    ),
    "a misaligned write": Mistake(
        STORE,
        "[%d2]",
        "[%d2+2]",
        "misaligned",
    ),
    "a write beyond local memory": Mistake(
        LOCAL,
        "st.b32 [%d4]",
        "st.b32 [%d4+8]",
        "out of bounds",
    ),
    "a read beyond shared memory": Mistake(
        WARP,
        "ld.shared.b32 %r4, [%r3]",
        "ld.shared.b32 %r4, [%r3+4096]",
        "out of bounds",
    ),
    "programs write the same place": Mistake(
        PROGRAMS,
        "64, %r90",
        "32, %r90",
        "writes global",
        grid=2,
    ),
    "no acquire": Mistake(
        TURNS,
        "ld.acquire.gpu",
        "ld.volatile",
        "reads global",
        grid=2,
        residents=2,
    ),
    "no release": Mistake(
        TURNS,
        "atom.acq_rel",
        "atom.acquire",
        "reads global",
        grid=2,
        residents=2,
    ),
    "the release is before the barrier": Mistake(
        TURNS,
        "st.global.b32 [%d1], %r6; bar.sync 0;",
        "bar.sync 0; st.global.b32 [%d1], %r6;",
        "reads global",
        grid=2,
        residents=2,
    ),
    "no barrier after the acquire": Mistake(
        TURNS,
        "$there: bar.sync 0;",
        "$there: ",
        "global memory",
        grid=2,
        residents=2,
    ),
    "no fence before an atomic operation": Mistake(
        FENCES,
        f"membar.gl; {RELAXED}",
        RELAXED,
        "reads global",
        grid=2,
        residents=2,
    ),
    "no fence after an atomic operation": Mistake(
        FENCES,
        "[%d4], 0; membar.gl",
        "[%d4], 0",
        "reads global",
        grid=2,
        residents=2,
    ),
    "a barrier that some lanes do not reach": Mistake(
        "setp.eq.b32 %p1, %r90, 3;" + STORE + "bar.sync 0;",
        "bar.sync 0;",
        "@!%p1 bar.sync 0;",
        "do not",
    ),
    "a barrier that a warp never reaches": Mistake(
        "setp.lt.u32 %p1, %r90, 32;" + STORE + "bar.sync 0, 64;",
        "bar.sync",
        "@%p1 ret; bar.sync",
        "deadlock",
    ),
    "a shuffle of lanes that are not there": Mistake(
        SHUFFLE,
        "shfl",
        "@!%p1 shfl",
        "for lanes ffffffff",
    ),
    "no proxy fence before a product": Mistake(
        PRODUCT,
        "fence.proxy.async.shared::cta;",
        "",
        "without a fence of the asynchronous proxy",
        threads=128,
    ),
    "no barrier before a product": Mistake(
        PRODUCT,
        "bar.sync 0; wgmma.fence",
        "wgmma.fence",
        "shared memory",
        threads=128,
    ),
    "no fence before a product's registers": Mistake(
        PRODUCT,
        "wgmma.fence.sync.aligned;",
        "",
        "no wgmma.fence",
        threads=128,
    ),
    "a product is not waited for": Mistake(
        PRODUCT,
        "wait_group.sync.aligned 0",
        "wait_group.sync.aligned 1",
        "a wgmma may still read",
        threads=128,
    ),
    "nothing waits for a product": Mistake(
        PRODUCT.replace(OVERWRITES, ""),
        "wgmma.wait_group.sync.aligned 0;",
        "",
        "nothing waits",
        threads=128,
    ),
    "no barrier after a product": Mistake(
        PRODUCT,
        "bar.sync 0;\nst.shared",
        "\nst.shared",
        "writes shared",
        threads=128,
    ),
}


def outcome_of(mistake: Mistake, body: str, schedule: int):
    arrays = [np.arange(256, dtype="u4"), np.zeros(256, "u4")]
    options = dict(schedule=schedule, late=schedule == REVERSE, residents=mistake.residents)
    return run(kernel(2, body), arrays, threads=mistake.threads, grid=mistake.grid, shared=4096, **options)


@pytest.mark.parametrize("schedule", [0, REVERSE, ROUND_ROBIN])
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_reported_in_every_order_and_the_right_kernel_has_none(mistake, schedule):
    assert mistake.body.count(mistake.right) == 1
    right = outcome_of(mistake, mistake.body, schedule)
    assert right.complaints == 0, right.log
    wrong = outcome_of(mistake, mistake.body.replace(mistake.right, mistake.wrong), schedule)
    assert wrong.complaints > 0 and mistake.log in wrong.log, wrong.log


def test_what_was_never_written_differs_between_orders():
    """So that results that depend on it differ."""
    results = set()
    for schedule in (0, REVERSE, ROUND_ROBIN):
        out = np.zeros(32, "u4")
        outcome = run(kernel(1, "mad.wide.u32 %d1, %r90, 4, %a0; st.global.b32 [%d1], %r7;"), [out], schedule=schedule)
        assert outcome.complaints == 0
        results.add(int(out[0]))
        assert np.isnan(out.view("f4")).all()
    assert len(results) == 3
