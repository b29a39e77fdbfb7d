"""The chips that kernels are compiled for: the resources of a multiprocessor, and how many warps of a kernel fit."""

from dataclasses import dataclass

KIB = 1024
REGISTERS = 512  # per lane, for all warps of a scheduler; the same on all these chips
SCHEDULERS = 4


@dataclass(frozen=True)
class Chip:
    """The resources of a chip.

    Attributes:
        backend: Triton's name of the backend.
        arch: Triton's name of the architecture.
        lanes: lanes of a warp.
        shared_block: bytes of shared memory that a block may use.
        shared: bytes of shared memory of a multiprocessor.
        reserved: bytes of shared memory that are reserved for every block, in addition to its own.
        warps: maximum number of warps of a scheduler.
        blocks: maximum number of blocks of a multiprocessor.
    """

    backend: str
    arch: int | str
    lanes: int
    shared_block: int
    shared: int
    reserved: int
    warps: int
    blocks: int

    def resident_warps(self, registers: int, shared: int, block_warps: int) -> int:
        """Returns how many warps of a kernel are resident on a multiprocessor at the same time.

        Args:
            registers: registers per lane.
            shared: bytes of shared memory of a block.
            block_warps: warps of a block.
        """
        rounded = -(-max(registers, 1) // 8) * 8
        warps = SCHEDULERS * min(self.warps, REGISTERS // rounded)
        return block_warps * min(warps // block_warps, self.shared // max(shared + self.reserved, 1), self.blocks)


CHIPS = {
    "sm_80": Chip("cuda", 80, 32, 163 * KIB, 164 * KIB, KIB, 16, 32),
    "sm_90": Chip("cuda", 90, 32, 227 * KIB, 228 * KIB, KIB, 16, 32),
    "sm_100": Chip("cuda", 100, 32, 227 * KIB, 228 * KIB, KIB, 16, 32),
    "gfx942": Chip("hip", "gfx942", 64, 64 * KIB, 64 * KIB, 0, 8, 32),
}
