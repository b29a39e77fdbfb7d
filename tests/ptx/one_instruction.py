"""Runs one instruction on many values, each in a lane of its own."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from tests.ptx.interpreter import LANES, Executable, Options
from tests.ptx.parse import size_of

# {bytes: declaration of a register's type}
TYPES = {0: "pred", 1: "b16", 2: "b16", 4: "b32", 8: "b64"}


def memory_of(arrays: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Returns (begin, end) of the memory of arrays."""
    return [(x.ctypes.data, x.ctypes.data + x.nbytes) for x in arrays]


def run(
    text: str, arrays: Sequence[np.ndarray], *, threads: int = LANES, grid: int = 1, shared: int = 0, **options: object
):
    """Runs a kernel whose parameters are the addresses of arrays. Returns the outcome."""
    values = [x.ctypes.data for x in arrays]
    chosen = Options(**options)
    return executable(text).run((grid, 1, 1), threads, values, shared=shared, ranges=memory_of(arrays), options=chosen)


@functools.cache
def executable(text: str) -> Executable:
    return Executable(text)


def kernel(parameters: int, body: str) -> str:
    """Returns a kernel with the addresses %a0, %a1, ... in registers. It may use %p, %h (16 bits), %r and %d (64)."""
    names = [f"kernel_param_{k}" for k in range(parameters)]
    loads = "".join(f"ld.param.u64 %a{k}, [{name}];\n" for k, name in enumerate(names))
    return f"""
.extern .shared .align 16 .b8 memory[];
.visible .entry kernel({", ".join(f".param .u64 {name}" for name in names)}) {{
.reg .pred %p<99>; .reg .b16 %h<99>; .reg .b32 %r<99>; .reg .b64 %d<99>; .reg .b64 %a<9>;
{loads}mov.u32 %r90, %tid.x;
{body}
ret;
}}
"""


def apply(
    opcode: str, result: str, sources: Sequence[tuple[str, np.ndarray]], literals: str = "", **options: object
) -> np.ndarray:
    """Returns the results of an instruction for each lane's operands.

    Args:
        opcode: the instruction.
        result: type of the result, such as "f32", or "pred": then the results are 0 or 1.
        sources: (type, bits of the values as unsigned integers) of each operand.
        literals: further operands.
        **options: of the run.
    """
    count = len(sources[0][1])
    assert count % LANES == 0
    arrays = [np.ascontiguousarray(values) for _, values in sources]
    size = size_of(result) or 4
    out = np.zeros(count, f"u{max(size, 2)}")
    lines = ["mov.u32 %r91, %ctaid.x; shl.b32 %r92, %r91, 5; add.s32 %r92, %r92, %r90;"]
    names = []
    for k, (kind, array) in enumerate(zip((kind for kind, _ in sources), arrays)):
        lines.append(f".reg .{TYPES[array.itemsize]} %s{k}; mad.wide.u32 %d{k}, %r92, {array.itemsize}, %a{k};")
        lines.append(f"ld.global.b{8 * array.itemsize} %s{k}, [%d{k}];")
        register = f"%s{k}"
        if kind == "pred":
            lines.append(f"setp.ne.b32 %p{k}, %s{k}, 0;")
            register = f"%p{k}"
        names.append(register)
    lines.append(f".reg .{TYPES[size_of(result)]} %out;")
    lines.append(f"{opcode} {', '.join(['%out', *names])}{literals};")
    lines.append(f"mad.wide.u32 %d90, %r92, {out.itemsize}, %a{len(arrays)};")
    if result == "pred":
        lines.append("selp.b32 %r93, 1, 0, %out; st.global.b32 [%d90], %r93;")
    else:
        lines.append(f"st.global.b{8 * out.itemsize} [%d90], %out;")
    outcome = run(kernel(len(arrays) + 1, "\n".join(lines)), [*arrays, out], grid=count // LANES, **options)
    assert not outcome.complaints, outcome.log
    return out
