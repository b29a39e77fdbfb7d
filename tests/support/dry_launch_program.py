"""Compiles a kernel without a GPU, or launches it on a driver that records launches. Prints what Triton looked up.

    python -m tests.support.dry_launch_program compile|launch

Prints, as JSON, the list of (key in Triton's cache, whether it was there) and the number of launches. Every call runs
the operator twice.
"""

import json
import sys
from collections.abc import Callable

import torch
import triton

from benchmarks.gpu.dry_launch import dry_launches, recorded_compilations
from benchmarks.gpu.stub_gpu import SM_90, StubDriver
from pymultiling.ops import mask_neurons
from pymultiling.triton_kernels.mask_neurons import mask_neurons as launch

launches: list[tuple[object, ...]] = []


class RecordingDriver(StubDriver):
    """A driver that records launches and runs nothing."""

    def launcher_cls(self, source: object, metadata: object) -> Callable[..., None]:
        return lambda *arguments: launches.append(arguments)


x, ids = torch.randn(20, 64), torch.zeros(20, dtype=torch.int64)
masks = torch.ones(1, 64, dtype=torch.bool)
if sys.argv[1] == "compile":
    with dry_launches(SM_90) as looked_up:
        results = [mask_neurons(x, masks, ids) for _ in range(2)]
    assert not any(result.any() for result in results)
else:
    triton.runtime.driver.set_active(RecordingDriver())
    with recorded_compilations() as looked_up:
        for _ in range(2):
            launch(x, masks, ids)
print(json.dumps([[(compilation.key, compilation.cached) for compilation in looked_up], len(launches)]))
