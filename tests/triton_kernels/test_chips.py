import pytest

from benchmarks.machine_code.chips import CHIPS


@pytest.mark.parametrize(
    "chip, registers, shared, block_warps, resident",
    [
        ("sm_80", 32, 0, 4, 64),
        ("sm_90", 33, 0, 4, 48),  # 40 registers: 12 warps a scheduler
        ("sm_90", 255, 0, 4, 8),
        ("sm_90", 32, 113 * 1024, 8, 16),  # two blocks have 228 KiB with the KiB of each
        ("sm_90", 32, 114 * 1024, 8, 8),
        ("sm_90", 16, 0, 1, 32),  # blocks
        ("sm_90", 168, 0, 16, 0),  # 12 warps
        ("gfx942", 128, 0, 4, 16),
        ("gfx942", 64, 64 * 1024, 4, 4),
    ],
)
def test_resident_warps(chip, registers, shared, block_warps, resident):
    assert CHIPS[chip].resident_warps(registers, shared, block_warps) == resident
