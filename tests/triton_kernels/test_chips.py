"""How many warps fit on a multiprocessor, for known resources of kernels."""

import pytest

from benchmarks.machine_code.chips import CHIPS


@pytest.mark.parametrize(
    "chip, registers, shared, block_warps, resident",
    [
        ("sm_80", 32, 0, 4, 64),
        ("sm_90", 33, 0, 4, 48),  # rounded up to 40 registers: 12 warps per scheduler
        ("sm_90", 255, 0, 4, 8),
        ("sm_90", 32, 113 * 1024, 8, 16),  # two blocks need 228 KiB, with 1 KiB more for each
        ("sm_90", 32, 114 * 1024, 8, 8),
        ("sm_90", 16, 0, 1, 32),  # the number of blocks is the limit
        ("sm_90", 168, 0, 16, 0),  # only 12 warps fit
        ("gfx942", 128, 0, 4, 16),
        ("gfx942", 64, 64 * 1024, 4, 4),
    ],
)
def test_the_scarcest_resource_limits_the_resident_warps(chip, registers, shared, block_warps, resident):
    assert CHIPS[chip].resident_warps(registers, shared, block_warps) == resident
