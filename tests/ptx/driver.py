"""A driver for Triton whose GPU is the interpreter: `kernel[grid](...)` runs the kernel's PTX on tensors on the CPU.

The kernels are specialised as for a GPU: by dtypes, and by arguments that are 1 or multiples of 16.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import ir, make_backend

from tests.ptx import archive
from tests.ptx.archive import Compiled, Specialization
from tests.ptx.interpreter import LANES, Options
from tests.ptx.launches import launch
from tests.ptx.registers import shorten

Compiler = Callable[[ASTSource, GPUTarget, dict[str, object]], Compiled]


def gpu(target: str) -> GPUTarget:
    """Returns Triton's description of a chip such as "sm_90"."""
    return GPUTarget("cuda", int(target.removeprefix("sm_")), LANES)


def compile_to_ptx(source: ASTSource, target: GPUTarget, options: dict[str, object]) -> Compiled:
    """Compiles a kernel as far as its PTX. The machine code, which takes as long again, is not needed."""
    backend = make_backend(target)
    parsed = backend.parse_options(options)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    stages: dict[str, Callable[[object, dict[str, object]], object]] = {}
    backend.add_stages(stages, parsed, source.language)
    functions, modules = backend.get_codegen_implementation(parsed), backend.get_module_map()
    module: object = source.make_ir(target, parsed, functions, modules, context)
    metadata: dict[str, object] = {"hash": "", "target": target, **parsed.__dict__}
    for name in ("ttir", "ttgir", "llir", "ptx"):
        module = stages[name](module, metadata)
    return Compiled(shorten(without_debugging(str(module))), int(metadata["shared"]), int(metadata["num_warps"]))


def without_debugging(ptx: str) -> str:
    """Returns a text without the lines that only debuggers read. They are half of it."""
    code = ptx.partition("\t.section\t")[0].splitlines()
    return "\n".join(line for line in code if line.strip() and not line.lstrip().startswith((".loc", ".file", "//")))


def from_archive(version: str, target: str, record: Callable[[Specialization, Compiled], None]) -> Compiler:
    """Returns a compiler that takes kernels from the archive, and compiles those that it lacks.

    Args:
        version: the Triton version. If another one is installed, tests of kernels that the archive lacks are skipped.
        target: the chip.
        record: called with every specialisation and its kernel.
    """
    entries = archive.read(archive.path_of(version, target))

    def find(source: ASTSource, chip: GPUTarget, options: dict[str, object]) -> Compiled:
        specialization = Specialization.of(source, options)
        alone = make_backend(chip).parse_options(dict(specialization.options))
        assert vars(alone) == options, "archive.OPTIONS lacks an option that a launch has chosen"
        if specialization.is_plain and specialization.key in entries:
            compiled = entries[specialization.key][1]
        elif version != triton.__version__:
            pytest.skip(f"the archive of Triton {version} lacks this kernel: run python -m tests.ptx.compile")
        else:
            compiled = compile_to_ptx(source, chip, options)
        record(specialization, compiled)
        return compiled

    return find


class InterpretedKernel:
    """What Triton calls when it launches a kernel."""

    function = packed_metadata = None

    def __init__(self, source: ASTSource, compiled: Compiled, orders: Sequence[Options]) -> None:
        self.source, self.compiled, self.ptx, self.orders = source, compiled, compiled.ptx, orders
        function = source.fn.fn
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"

    def launch_metadata(self, *_: object) -> None:
        """Triton calls this before a launch."""

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        """Returns a function that runs the kernel with all of its arguments."""
        return functools.partial(self._launch, grid)

    def run(self, x: int, y: int, z: int, *rest: object) -> None:
        """Runs the kernel. `rest`: stream, function, packed metadata, metadata, two hooks, then all arguments."""
        self._launch((x, y, z), *rest[6:])

    def _launch(self, grid: tuple[int, int, int], *arguments: object) -> None:
        values: list[int | bytes] = []
        tensors: list[Tensor] = []
        for name, argument in zip(self.source.fn.arg_names, arguments, strict=True):
            kind = self.source.signature[name]
            if kind.startswith("*"):
                tensors.append(argument)
                values.append(argument.data_ptr())
            elif kind == "fp32":
                values.append(struct.pack("f", argument))
            elif kind != "constexpr":
                values.append(int(argument))
        threads = self.compiled.warps * LANES
        launch(self.name, self.ptx, grid, threads, values, tensors, shared=self.compiled.shared, orders=self.orders)


def install(target: str, orders: Sequence[Options], compiler: Compiler = compile_to_ptx) -> None:
    """Makes Triton compile for a chip with `compiler`, and run kernels in the interpreter, in this process."""
    chip = gpu(target)
    driver = SimpleNamespace(
        get_current_target=lambda: chip,
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_active_torch_device=lambda: torch.device("cpu"),
    )
    triton.runtime.driver.set_active(driver)

    def compile_kernel(source: ASTSource, target: GPUTarget, options: dict[str, object]) -> InterpretedKernel:
        return InterpretedKernel(source, compiler(source, target, options), orders)

    triton.compiler.compile = compile_kernel
