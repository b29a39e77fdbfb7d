"""A stub GPU: tensors on the CPU pass for a GPU's as far as launching kernels is concerned, and kernels do nothing.

With it the host's share of a launch can be measured on a machine without a GPU. Triton compiles the kernels for sm_90,
as it would for a GPU, but its launcher returns at once. So results are memory that nobody wrote. What a real GPU adds
on the host is missing: Triton's launcher in C, the driver's queue, and PyTorch's allocator of device memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from triton import runtime

from benchmarks.gpu.dry_launch import ChipDriver

SM_90 = 90


class _Utilities:
    """What Triton asks a driver about the device and its binaries."""

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32}

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        """Returns a module, a function, registers, spills, and the most threads of a block."""
        return 1, 1, 32, 0, 1024

    def unload_module(self, module: int) -> None:
        pass


class StubDriver(ChipDriver):
    """Triton's driver of the stub GPU."""

    utils = _Utilities()

    def __init__(self) -> None:
        super().__init__(SM_90)

    def launcher_cls(self, source: object, metadata: object) -> Callable[..., None]:
        return _do_nothing


def _do_nothing(*arguments: object) -> None:
    pass


@contextmanager
def stub_gpu() -> Iterator[None]:
    """Inside the block operators on CPU tensors launch Triton kernels on the stub GPU. TRITON_INTERPRET must be unset.

    The results of importance are not checked for NaN inside the block.
    """
    runtime.driver.set_active(StubDriver())  # for the rest of the process: there is no other driver to return to
    with ExitStack() as stack:
        for name, stub in (
            ("pymultiling.ops.dispatch.FASTEST", {"cpu": "triton"}),
            ("pymultiling.ops.dispatch.why_unavailable", lambda *_: None),
            ("pymultiling.probes.importance_values.FiniteCheck.__call__", _do_nothing),
        ):
            stack.enter_context(patch(name, stub))
        yield
