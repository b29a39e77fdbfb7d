"""Runs qk_importance's CUDA kernel on the CPU: compiles its headers with emulated_block.h and calls it on tensors."""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from pymultiling.mathematics.qk_problem import QKProblem

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc" / "cuda" / "qk_importance"
COMPILER = shutil.which("c++") or shutil.which("g++")
TRUNCATES, DISTURBS, BACKWARDS = 1, 2, 4  # modes, as in emulated_block.h

LOG2_E = 1.4426950408889634


class Strides(ctypes.Structure):
    """The struct Strides of problem.h."""

    _fields_ = [("batch", ctypes.c_int64), ("head", ctypes.c_int64), ("row", ctypes.c_uint32)]


class Problem(ctypes.Structure):
    """The struct Problem of problem.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("q", "k", "q_plain", "k_plain")),
        *((name, Strides) for name in ("q_at", "k_at", "q_plain_at", "k_plain_at")),
        *((name, ctypes.c_void_p) for name in ("cos", "sin")),
        ("table_batch", ctypes.c_int64),
        ("wide_tables", ctypes.c_bool),
        ("interleaved", ctypes.c_bool),
        *((name, ctypes.c_void_p) for name in ("valid", "q_out", "k_out", "scratch", "partial", "counters")),
        *((name, ctypes.c_int) for name in ("batch", "heads", "kv_heads", "length", "size", "rotary_size", "window")),
        ("scale", ctypes.c_float),
    ]


@functools.cache
def library() -> ctypes.CDLL:
    """Compiles and loads the emulated kernel."""
    folder = tempfile.mkdtemp()
    out = Path(folder, "emulated.so")
    flags = ["-std=c++20", "-O2", "-g0", "-Wall", "-Wno-unknown-pragmas", "-ffp-contract=off", "-shared", "-fPIC"]
    source = HERE / "emulated_qk_importance.cpp"
    subprocess.run([COMPILER, *flags, f"-I{CSRC}", f"-I{HERE}", str(source), "-o", str(out)], check=True)
    loaded = ctypes.CDLL(str(out))
    shutil.rmtree(folder)
    loaded.scratch_size.restype = loaded.exponentials.restype = ctypes.c_int64
    assert loaded.problem_bytes() == ctypes.sizeof(Problem)
    return loaded


def prepare(layer: QKProblem, blocks: int) -> tuple[Problem, dict[str, Tensor]]:
    """Returns the kernel's argument, and all memory that it may use: {name: tensor}. The results are q_out and k_out.

    The kernel's own memory is NaN at the start, except the counters, which are zero.

    Args:
        layer: the arguments of the operator, in bfloat16.
        blocks: number of blocks that run at the same time.
    """
    q, k, q_plain, k_plain, cos, sin, valid, q_growth, k_growth, scale, window, softcap, interleaved = layer[:13]
    assert (
        q_growth is k_growth is softcap is layer.sinks is layer.bias is None
        and layer.causal
        and q.dtype == torch.bfloat16
    )
    q_plain, k_plain = (q, k) if q_plain is None else (q_plain, k_plain)
    batch, heads, length, size = q.shape
    kv_heads = k.shape[1]
    problem = Problem()
    projections = {"q": q, "k": k, "q_plain": q_plain, "k_plain": k_plain}
    for name, x in projections.items():
        assert x.stride(3) == 1 and x.data_ptr() % 16 == 0 and all(step % 8 == 0 for step in x.stride()[:3])
        setattr(problem, f"{name}_at", Strides(*x.stride()[:3]))
    tables = {} if cos is None else {"cos": cos.contiguous(), "sin": sin.contiguous()}
    if cos is not None:
        problem.rotary_size = cos.shape[-1]
        problem.table_batch = tables["cos"].stride(0) if len(cos) > 1 else 0
        problem.wide_tables = cos.dtype == torch.float32
    problem.batch, problem.heads, problem.kv_heads = batch, heads, kv_heads
    problem.length, problem.size = length, size
    problem.interleaved = interleaved
    problem.window = length if window is None else min(window, length)
    problem.scale = scale * LOG2_E
    memory = projections | tables
    memory |= {
        "valid": valid.contiguous(),
        "q_out": torch.full((batch, heads * size), torch.nan),
        "k_out": torch.full((batch, kv_heads * size), torch.nan),
        "partial": torch.full((batch * heads * (-(-length // 16)) * 2 * size,), torch.nan),
        "counters": torch.zeros(2 + 2 * batch * kv_heads, dtype=torch.int32),
        "scratch": torch.full((library().scratch_size(ctypes.byref(problem), blocks),), torch.nan),
    }
    for name, x in memory.items():
        setattr(problem, name, x.data_ptr())
    return problem, memory


def qk_importance(layer: QKProblem, *, mode: int = 0, blocks: int = 2) -> tuple[Tensor, Tensor]:
    """Runs the kernel on emulated blocks. Its counters must be zero at the end, as at the start.

    Args:
        layer: the arguments of the operator, in bfloat16.
        mode: a sum of TRUNCATES, DISTURBS and BACKWARDS.
        blocks: number of blocks that run at the same time.

    Returns:
        The importance of the query neurons, (B, H d), and of the key neurons, (B, K d).
    """
    problem, memory = prepare(layer, blocks)
    assert library().run_qk_importance(ctypes.byref(problem), blocks, mode) == 0
    assert not memory["counters"].any()
    return memory["q_out"], memory["k_out"]
