"""Compiling the Triton kernels for a chip that is not here, and reading off what they take of it."""

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

# What a launch finds out about its arguments: pointers are aligned and, which only AMD's back-end asks, to less than 2 GiB.
DIVISIBLE = [["tt.divisibility", 16]]
POINTER = {"cuda": DIVISIBLE, "hip": [*DIVISIBLE, ["tt.pointer_range", 32]]}


@cache
def modules() -> list[ModuleType]:
    """Of Triton kernels, each with variants()."""
    rows = {operator.module_name: operator for operator in OPERATORS.values() if "triton" in operator.kernels}
    return [row.triton_module() for row in rows.values()]


@cache
def variants(target: str) -> dict[tuple[str, str], Variant]:
    """{(operator, name): variant} of all operators."""
    found = [variant for module in modules() for variant in module.variants(CHIPS[target].lanes)]
    return {(variant.operator, variant.name): variant for variant in found}


def dtype(variant: Variant) -> str:
    """Triton's name of what the first pointer of the signature points to, which is the tensor that the operator is about."""
    return next(iter(variant.signature.values())).removeprefix("*")


def compile_variant(variant: Variant, target: str) -> CompiledKernel:
    """As a launch on aligned tensors compiles it."""
    chip, names = CHIPS[target], variant.kernel.arg_names
    signature = {name: variant.signature.get(name, "constexpr") for name in names}
    known = {name: POINTER[chip.backend] for name in names if signature[name].startswith("*")}
    known |= dict.fromkeys(variant.divisible, DIVISIBLE)
    source = ASTSource(
        fn=variant.kernel,
        signature=signature,
        constexprs={name: variant.constants[name] for name in names if signature[name] == "constexpr"},
        attrs={(names.index(name),): facts for name, facts in known.items()},
    )
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget(chip.backend, chip.arch, chip.lanes), options=options)


def resources(kernel: CompiledKernel) -> dict[str, int]:
    """Registers of a thread, bytes that it keeps in memory for want of them, and bytes of shared memory of a block.

    in_loops: how many instructions of innermost loops go to that memory (on AMD: of the kernel).
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
        "registers": used["vgpr_count"],  # agpr_count's among them
        # Scalars that were spilled lie in vector registers, not in memory.
        "spills": max(used["private_segment_fixed_size"], 4 * used["vgpr_spill_count"]),
        "in_loops": len(re.findall(r"^\s*scratch_", text, re.MULTILINE)),
        "shared": max(shared, used["group_segment_fixed_size"]),
    }


def machine_code(kernel: CompiledKernel) -> str:
    return cubin.disassemble(kernel.asm["cubin"]) if "cubin" in kernel.asm else kernel.asm["amdgcn"]
