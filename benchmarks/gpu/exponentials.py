"""A kernel that only computes exponentials in registers. It measures the highest rate of exponentials."""

import torch
import triton
import triton.language as tl

BLOCK = 2048  # 16 independent chains of exponentials in each of 128 threads
ROUNDS = 4096
BLOCKS_PER_MULTIPROCESSOR = 16


@triton.jit
def _exponentials(out, rounds, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = offsets * 1e-9
    for _ in range(rounds):
        x = tl.exp2(-x)
    tl.store(out + offsets, x)


class Exponentials:
    """A callable that computes `count` exponentials on a GPU."""

    def __init__(self, device: torch.device):
        self._blocks = BLOCKS_PER_MULTIPROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count
        self._out = torch.empty(self._blocks * BLOCK, device=device)
        self.count = self._blocks * BLOCK * ROUNDS

    def __call__(self) -> None:
        _exponentials[(self._blocks,)](self._out, ROUNDS, BLOCK=BLOCK, num_warps=4)
