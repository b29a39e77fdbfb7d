"""The launch settings of the q/k kernels."""

import pytest
import torch

from benchmarks.machine_code.chips import CHIPS

pytest.importorskip("triton", reason="Triton is not installed")

from pymultiling.triton_kernels.qk_heads import programs_at_once, settings


@pytest.mark.parametrize(
    "operator, dtype, size, chip, programs",
    [
        ("qk_importance", torch.bfloat16, 32, "sm_90", 12),
        ("qk_importance", torch.bfloat16, 64, "sm_90", 6),
        ("qk_importance", torch.bfloat16, 128, "sm_90", 3),
        ("qk_importance", torch.bfloat16, 256, "sm_90", 1),
        ("qk_importance", torch.float32, 128, "sm_90", 2),
        ("qk_importance", torch.bfloat16, 128, "gfx942", 2),
        ("qk_estimate", torch.bfloat16, 32, "sm_90", 8),
        ("qk_estimate", torch.bfloat16, 128, "sm_90", 2),
        ("qk_estimate", torch.bfloat16, 256, "gfx942", 1),
    ],
)
def test_a_wave_is_as_many_programs_as_fit_on_a_multiprocessor(operator, dtype, size, chip, programs):
    """Registers are the limit. Without one in the settings, a thread has 255 on NVIDIA's chips and 512 on AMD's."""
    lanes = CHIPS[chip].lanes
    _constants, options = settings(operator, dtype, size, lanes)
    registers = options.get("maxnreg", {32: 255, 64: 512}[lanes])
    resident_warps = CHIPS[chip].resident_warps(registers, 0, options["num_warps"])
    assert programs_at_once(options, lanes) == programs == resident_warps // options["num_warps"]


@pytest.mark.parametrize("operator, size", [("qk_importance", 256), ("qk_estimate", 128)])
def test_registers_are_only_limited_where_more_programs_fit(operator, size):
    assert "maxnreg" not in settings(operator, torch.bfloat16, size, 32)[1]
    assert "maxnreg" not in settings("qk_importance", torch.bfloat16, 128, 64)[1]  # AMD's compiler has no such option
