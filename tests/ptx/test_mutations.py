"""Takes barriers and waits out of the CUDA kernel's PTX and shifts its accesses: the interpreter must notice."""

import ctypes
from collections import Counter

import pytest

from tests.cuda import emulated
from tests.cuda.test_emulated_qk_importance import make_problem
from tests.ptx import cuda_kernel
from tests.ptx.interpreter import REVERSE, Executable, Options
from tests.ptx.launches import extents
from tests.ptx.mutants import mutants_of, survivors
from tests.support.qk_cases import Case

pytestmark = [pytest.mark.long, pytest.mark.skipif(emulated.COMPILER is None, reason="no C++ compiler")]
BLOCKS = 2
CASE = Case(batch=1, kv_heads=1, group=2, length=40, size=32)

# {kind of change: how many of them nothing notices}, and why.
SURVIVORS = {
    # increment() for the queue of items and for the blocks that end releases no results, and for key tiles it acquires
    # none. The load in wait_until() acquires. Races of atomic operations with stores are not looked for.
    "fence removed": 6,
    # Another barrier stands between the same accesses: before the next item, after the wait for key tiles, at the end
    # of a sweep, and at the end of finish_slowly() where it runs.
    "bar.sync removed": 4,
    "bar.warp.sync removed": 1,  # the block synchronises before the next store to what the lanes have read
    "ld.global shifted": 1,  # the neighbouring bound leads to the same branch
    "ld.shared shifted": 1,  # the neighbouring number leads to the same branch
}


def test_changes_of_the_cuda_kernel_are_noticed():
    kernel = cuda_kernel.compiled("sm_90")
    if kernel is None:
        pytest.skip("the kernel has changed since its PTX was kept, and nvcc is not installed")
    executable = Executable(kernel.ptx)
    problem, memory = emulated.prepare(make_problem(CASE), BLOCKS)
    argument = ctypes.string_at(ctypes.addressof(problem), ctypes.sizeof(problem))
    own = {name: memory[name].clone() for name in ("q_out", "k_out", "partial", "counters", "scratch")}
    options = Options(schedule=REVERSE, late=True, residents=BLOCKS)

    def run():
        for name, x in own.items():
            memory[name].copy_(x)
        ranges = extents(list(memory.values()))
        return executable.run(
            (BLOCKS, 1, 1), cuda_kernel.THREADS, [argument], shared=kernel.shared, ranges=ranges, options=options
        )

    results = [memory["q_out"].numpy(), memory["k_out"].numpy()]
    alive, tried = survivors(executable, run, results, list(mutants_of(executable, every=8)))
    print(f"{tried - len(alive)} of {tried} changes are noticed")
    lines = kernel.ptx.splitlines()
    for mutant in alive:
        print(f"{mutant.line}: {mutant.kind}: {lines[mutant.line - 1].strip()}")
    counts = Counter(mutant.kind for mutant in alive)
    assert all(count <= SURVIVORS.get(kind, 0) for kind, count in counts.items()), counts
