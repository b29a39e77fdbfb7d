"""Compiles the Triton kernels for a chip, which need not be there, and reads which resources they use."""

import re
from functools import cache
from types import ModuleType

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from benchmarks.machine_code import cubin
from benchmarks.machine_code.chips import CHIPS
from benchmarks.machine_code.sass import count_classes, innermost_loops, parse
from pymultiling.ops.registry import OPERATORS
from pymultiling.triton_kernels.variant import Variant

# Triton's assumptions about pointers: they are aligned to 16 bytes, and for AMD's compiler their memory is below 2 GiB.
DIVISIBLE = [["tt.divisibility", 16]]
POINTER = {"cuda": DIVISIBLE, "hip": [*DIVISIBLE, ["tt.pointer_range", 32]]}


@cache
def modules() -> list[ModuleType]:
    """Returns the modules with Triton kernels. Each of them has a function variants()."""
    operators = {operator.module_name: operator for operator in OPERATORS.values() if "triton" in operator.kernels}
    return [operator.triton_module() for operator in operators.values()]


@cache
def variants(target: str) -> dict[tuple[str, str], Variant]:
    """Returns {(operator, name): variant} of all operators. `target` is a key of CHIPS."""
    all_variants = [variant for module in modules() for variant in module.variants(CHIPS[target].lanes)]
    return {(variant.operator, variant.name): variant for variant in all_variants}


def dtype(variant: Variant) -> str:
    """Returns Triton's name of the dtype of the first tensor."""
    return next(iter(variant.signature.values())).removeprefix("*")


def compile_variant(variant: Variant, target: str) -> CompiledKernel:
    """Compiles a kernel under the assumptions that Triton makes when it is launched with aligned tensors.

    Args:
        variant: the kernel with its argument types and constants.
        target: a key of CHIPS, such as "sm_90".
    """
    chip, names = CHIPS[target], variant.kernel.arg_names
    signature = {name: variant.signature.get(name, "constexpr") for name in names}
    attributes = {name: POINTER[chip.backend] for name in names if signature[name].startswith("*")}
    attributes |= dict.fromkeys(variant.divisible, DIVISIBLE)
    source = ASTSource(
        fn=variant.kernel,
        signature=signature,
        constexprs={name: variant.constants[name] for name in names if signature[name] == "constexpr"},
        attrs={(names.index(name),): values for name, values in attributes.items()},
    )
    options = {
        "num_warps": variant.num_warps,
        "num_stages": variant.num_stages,
        "enable_fp_fusion": variant.fp_fusion,
    }
    if variant.maxnreg is not None:
        options["maxnreg"] = variant.maxnreg
    return triton.compile(source, target=GPUTarget(chip.backend, chip.arch, chip.lanes), options=options)


def resources(kernel: CompiledKernel) -> dict[str, int]:
    """Returns the resources that a kernel uses.

    Returns:
        registers: registers per thread.
        spills: bytes of spilled registers per thread.
        in_loops: instructions of innermost loops that access spilled registers (for AMD: of the whole kernel).
        shared: bytes of shared memory of a block.
    """
    shared = kernel.metadata.shared
    if "cubin" in kernel.asm:
        used = cubin.resource_usage(kernel.asm["cubin"])
        spills = used["STACK"] + used["LOCAL"]
        loops = innermost_loops(parse(machine_code(kernel))) if spills else []
        in_loops = sum(count_classes(loop)["local"] for loop in loops)
        return {"registers": used["REG"], "spills": spills, "in_loops": in_loops, "shared": shared}
    text = kernel.asm["amdgcn"]
    used = {name: int(value) for name, value in re.findall(r"\.(\w+): +(\d+)$", text, re.MULTILINE)}
    return {
        "registers": used["vgpr_count"],  # includes agpr_count
        # Spilled scalar registers are in vector registers, not in memory.
        "spills": max(used["private_segment_fixed_size"], 4 * used["vgpr_spill_count"]),
        "in_loops": len(re.findall(r"^\s*scratch_", text, re.MULTILINE)),
        "shared": max(shared, used["group_segment_fixed_size"]),
    }


def machine_code(kernel: CompiledKernel) -> str:
    """Returns the machine code as text."""
    return cubin.disassemble(kernel.asm["cubin"]) if "cubin" in kernel.asm else kernel.asm["amdgcn"]
