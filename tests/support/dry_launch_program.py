"""Compiles a kernel without a GPU, launches it on a driver that records launches, and prints what Triton looked up.

    python -m tests.support.dry_launch_program

Prints a JSON list of (key in Triton's cache, whether it was there), first without and then with a launch, and the
number of launches.
"""

import json
from collections.abc import Callable
from types import SimpleNamespace

import torch
import triton

from benchmarks.gpu.dry_launch import ChipDriver, dry_launches, recorded_compilations
from pymultiling.ops import mask_neurons
from pymultiling.triton_kernels.mask_neurons import mask_neurons as launch

SM_90 = 90
launches: list[tuple[object, ...]] = []


class RecordingDriver(ChipDriver):
    """A driver that records launches and runs nothing."""

    utils = SimpleNamespace(
        load_binary=lambda name, binary, shared, device: (0, 0, 32, 0, 1024),
        get_device_properties=lambda device: {"max_shared_mem": 227 * 1024},
        unload_module=lambda module: None,
    )

    def get_current_device(self) -> int:
        """Another device than that of `ChipDriver`, so that Triton reads its cache on the disk."""
        return 1

    @staticmethod
    def launcher_cls(source: object, metadata: object) -> Callable[..., None]:
        return lambda *arguments: launches.append(arguments)


x, ids = torch.randn(20, 64), torch.zeros(20, dtype=torch.int64)
masks = torch.ones(1, 64, dtype=torch.bool)
with dry_launches(SM_90) as compiled:
    result = mask_neurons(x, masks, ids)
assert not result.any() and not launches
triton.runtime.driver.set_active(RecordingDriver(SM_90))
with recorded_compilations() as launched:
    launch(x, masks, ids)
looked_up = [[(c.key, c.cached) for c in compilations] for compilations in (compiled, launched)]
print(json.dumps([*looked_up, len(launches)]))
