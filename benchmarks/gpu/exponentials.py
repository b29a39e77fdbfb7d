"""A kernel that does nothing but exponentials, in registers: their ceiling for a kernel that needs many."""

import torch
import triton
import triton.language as tl

BLOCK = 2048  # 16 independent chains of exponentials in each of 128 threads
ROUNDS = 4096
BLOCKS_OF_A_PROCESSOR = 16


@triton.jit
def _exponentials(out, rounds, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = at * 1e-9
    for _ in range(rounds):
        x = tl.exp2(-x)
    tl.store(out + at, x)


class Exponentials:
    """Calling it computes `count` of them."""

    def __init__(self, device: torch.device):
        self._blocks = BLOCKS_OF_A_PROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count
        self._out = torch.empty(self._blocks * BLOCK, device=device)
        self.count = self._blocks * BLOCK * ROUNDS

    def __call__(self) -> None:
        _exponentials[(self._blocks,)](self._out, ROUNDS, BLOCK=BLOCK, num_warps=4)
