"""The chips that kernels are compiled for: what one of their processors holds, and how many warps of a kernel fit."""

from dataclasses import dataclass

KIB = 1024
REGISTERS = 512  # of a lane, for all warps of one scheduler; the same on all these chips
SCHEDULERS = 4


@dataclass(frozen=True)
class Chip:
    backend: str  # Triton's name
    arch: int | str  # Triton's name
    lanes: int  # of a warp
    shared_block: int  # bytes of shared memory a block may have
    shared: int  # bytes of shared memory of a processor
    reserved: int  # bytes of them that every block takes besides its own
    warps: int  # a scheduler's, at most
    blocks: int  # a processor's, at most

    def resident_warps(self, registers: int, shared: int, block_warps: int) -> int:
        """Warps at once on one processor, of blocks of `block_warps` with `shared` bytes and `registers` a lane."""
        rounded = -(-max(registers, 1) // 8) * 8
        warps = SCHEDULERS * min(self.warps, REGISTERS // rounded)
        return block_warps * min(warps // block_warps, self.shared // max(shared + self.reserved, 1), self.blocks)


CHIPS = {
    "sm_80": Chip("cuda", 80, 32, 163 * KIB, 164 * KIB, KIB, 16, 32),
    "sm_90": Chip("cuda", 90, 32, 227 * KIB, 228 * KIB, KIB, 16, 32),
    "sm_100": Chip("cuda", 100, 32, 227 * KIB, 228 * KIB, KIB, 16, 32),
    "gfx942": Chip("hip", "gfx942", 64, 64 * KIB, 64 * KIB, 0, 8, 32),
}
