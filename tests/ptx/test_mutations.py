"""Takes barriers and waits out of kernels' PTX and shifts their accesses: the interpreter must notice."""

import ctypes
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch

from tests.cuda import emulated
from tests.cuda.test_emulated_qk_importance import make_problem
from tests.ptx import archive, cuda_kernel
from tests.ptx.interpreter import LANES, REVERSE, Executable, Options, Outcome
from tests.ptx.launches import extents
from tests.ptx.mutants import mutants_of, survivors
from tests.support.qk_cases import Case

pytestmark = [pytest.mark.long, pytest.mark.skipif(emulated.COMPILER is None, reason="no C++ compiler")]
BLOCKS = 2
CASE = Case(batch=1, kv_heads=1, group=2, length=40, size=32)

# {kind of change: how many of them nothing notices}, and why.
OF_CUDA_KERNEL = {
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
OF_TRITON_KERNEL = {
    # The copies of gate and of up belong to the next group then, and the kernel waits for all three groups of a stage.
    "cp.async.commit_group removed": 2,
    "cp.async.wait_group weakened": 1,  # before the next span: the documents have only one
    # Before a sum over warps is stored: a warp alone has read, and overwrites, each place. There are three such sums.
    "bar.sync removed": 3,
}


def check(
    kernel: Executable,
    ptx: str,
    run: Callable[[], Outcome],
    results: Sequence[torch.Tensor],
    allowed: dict[str, int],
    every: int,
) -> None:
    """Checks that no more changes than allowed are unnoticed. The other arguments: `survivors` and `mutants_of`."""
    alive, tried = survivors(kernel, run, [x.numpy() for x in results], list(mutants_of(kernel, every)))
    print(f"{tried - len(alive)} of {tried} changes are noticed")
    lines = ptx.splitlines()
    for mutant in alive:
        print(f"{mutant.line}: {mutant.kind}: {lines[mutant.line - 1].strip()}")
    counts = Counter(mutant.kind for mutant in alive)
    assert all(count <= allowed.get(kind, 0) for kind, count in counts.items()), counts


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

    check(executable, kernel.ptx, run, [memory["q_out"], memory["k_out"]], OF_CUDA_KERNEL, every=8)


def test_changes_of_a_triton_kernel_are_noticed():
    """gated_ffn in float32 loads three stages of gate, up and masks ahead by cp.async."""
    kinds = {"gate": "*fp32", "up": "*fp32", "masks": "*u1", "up_row": "i32", "up_column": "i32", "mask_row": "i32"}
    found = [
        (specialization, compiled)
        for key, (specialization, compiled) in archive.read(archive.path_of("3.9.0", "sm_90")).items()
        if specialization.module == "gated_ffn" and kinds.items() <= dict(specialization.signature).items()
        if specialization.key == key
    ]
    if not found:
        pytest.skip("the kernel has changed since its PTX was kept: run make archives")
    specialization, compiled = found[0]
    tokens, width, count, sets = 470, 40, 2, 2
    torch.manual_seed(0)
    documents = torch.tensor([0, -1, 1, 0]).repeat_interleave(torch.tensor([230, 70, 140, 30]))
    memory = {
        "gate": torch.randn(tokens, width),
        "up": torch.randn(tokens, 2 * width),
        "offsets": torch.tensor([0, 260, 400], dtype=torch.int32),
        "order": torch.cat([(documents == c).nonzero().flatten() for c in (0, 1, -1)]).int(),
        "masks": torch.rand(sets, width) < 0.5,
        "mask_ids": torch.randint(-1, sets, (tokens,)),
        "hidden": torch.empty(tokens, width),
        "squares": torch.empty(count, width),
        "active": torch.empty(count, width, dtype=torch.int64),
        "magnitude": torch.empty(count, width),
    }
    results = [memory[name] for name in ("hidden", "squares", "active", "magnitude")]
    numbers = {"tokens": tokens, "width": width, "count": count, "sets": sets}
    numbers |= {"gate_row": width, "up_row": 2 * width, "up_column": 2, "mask_row": width}
    block = dict(specialization.constants)[list(dict(specialization.signature)).index("BLOCK_N")]
    values = [
        memory[name].data_ptr() if kind.startswith("*") else numbers[name]
        for name, kind in specialization.signature
        if kind != "constexpr"
    ]
    executable = Executable(compiled.ptx)
    grid = ((count + 1) * -(-width // block), 1, 1)
    options = Options(schedule=REVERSE, late=True)

    def run():
        for x in results:
            x.view(torch.uint8).fill_(255)
        ranges = extents(list(memory.values()))
        return executable.run(
            grid, compiled.warps * LANES, values, shared=compiled.shared, ranges=ranges, options=options
        )

    check(executable, compiled.ptx, run, results, OF_TRITON_KERNEL, every=4)
