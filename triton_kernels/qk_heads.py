"""Functions that qk_importance and qk_estimate share: tensor arguments, work items, constants and counters.

Strides and pointers are named after their tensor: q for the rotated queries, qp for the queries before the rotation
("plain"), qg for their growth under a norm, and k, kp, kg for the keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.triton_kernels.launching import ceil_div, is_interpreted, launch_kernel
from pymultiling.triton_kernels.qk_sweep import LOG2_E, ROWS, to_int64
from pymultiling.triton_kernels.variant import POINTERS, Variant, short_name, warp_size

# How often the programs that run at once on a multiprocessor are launched. The second time balances the work, because
# rows of many keys take longer.
WAVES = 2
# Registers per thread of qk_importance on NVIDIA's chips: the most with which a multiprocessor runs 12 warps at once.
# Without a limit it runs 8. With heads of 256 a program has 8 warps, and no second one fits in either case. Predicted
# by benchmarks/machine_code/predict.py for an H200 (triton 3.9, 2026-11-29): 152 ms, without a limit 175 ms.
SWEEP_REGISTERS = 168
# Registers of a multiprocessor, for each lane of a warp: it runs as many warps at once as have registers.
REGISTERS = 2048

# Arguments that change from call to call. If the kernels were specialised for their values, each would take ten seconds
# to compile.
PER_CALL = ["items", "tiles", "heads", "group", "length", "window", "skew", "bias_batch"]


@triton.jit
def pair(n, turned, INTERLEAVED: tl.constexpr):
    """Returns the partner of each dimension n under the rotation, and n's sign.

    turned: number of rotated dimensions. Each of the others is its own partner. The sign is +1 for the first of a pair
    and -1 for the second.
    """
    half = turned // 2
    first = n % 2 == 0 if INTERLEAVED else n < half
    partner = tl.where(first, n + 1, n - 1) if INTERLEAVED else tl.where(first, n + half, n - half)
    # The hint that two partners are contiguous may be wrong, which does no harm: it only tells Triton 3.6 along which
    # axis neurons lie, and addresses that are not aligned are not loaded as vectors.
    partner = tl.max_contiguous(tl.where(n < turned, partner, n), 2)
    return partner, tl.where(first, 1.0, -1.0)


@triton.jit
def item_of(
    item, items, tiles, heads, group, length, window, Key, k_batch, k_head, KeyPlain, kp_batch, kp_head,
    KeyGrowth, kg_batch, kg_head, Cos, Sin, table_batch, Valid, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Returns the tile of rows of a query head that has the number `item`.

    Its parts, in order: the index of the tile, the document b, the query head h and its key head kv; pointers to the
    document's valid, to the key head's key, key_plain and key_growth, and to the document's cos and sin; the rows
    (ROWS,) and which of them are valid; and the keys [first, last) that the rows see.
    """
    # In causal attention the last rows see the most keys, and they are computed first. Items of the same rows follow
    # each other, head by head.
    rank = item % (items // tiles)
    tile = tiles - 1 - item // (items // tiles)
    b = rank // heads
    h = rank % heads
    kv = h // group
    valid = Valid + to_int64(b) * length
    key = Key + to_int64(b) * k_batch + to_int64(kv) * k_head
    key_plain = KeyPlain + to_int64(b) * kp_batch + to_int64(kv) * kp_head
    key_growth = KeyGrowth + to_int64(b) * kg_batch + to_int64(kv) * kg_head
    cos, sin = Cos + to_int64(b) * table_batch, Sin + to_int64(b) * table_batch
    rows = tile * ROWS + tl.arange(0, ROWS)
    is_valid = tl.load(valid + rows, mask=rows < length, other=0) != 0
    first = tl.maximum(tile * ROWS - window + 1, 0)
    if CAUSAL:
        last = tl.where(tl.max(is_valid.to(tl.int32), 0) == 1, tl.minimum(tile * ROWS + ROWS, length), first)
    else:
        end = tl.minimum(tile * ROWS + ROWS - 1 + window, length)
        last = tl.where(tl.max(is_valid.to(tl.int32), 0) == 1, end, first)
    return tile, b, h, kv, valid, key, key_plain, key_growth, cos, sin, rows, is_valid, first, last


@triton.jit
def log2_sink_of(Sinks, h, SINKS: tl.constexpr):
    """Returns the score of query head h's sink times log2(e), 0 if not SINKS."""
    if SINKS:
        return tl.load(Sinks + h) * LOG2_E
    return 0.0


@dataclass(frozen=True)
class Heads:
    """An attention layer's tensors with their strides, in the order of the kernels' arguments.

    Attributes:
        batch: number of documents.
        heads: number of query heads.
        kv_heads: number of key heads.
        length: tokens of a document, padding included.
        size: dimensions of a head.
        turned: number of dimensions that are rotated.
        warp: threads of a warp.
        tensors: the first arguments of the kernels, from Query to bias_batch: tensors and their strides. Sinks, Bias
            and bias_batch may be None.
        flags: {constant of the kernels: its value}. PLAIN, QUERY_GROWTH and KEY_GROWTH: whether q_plain, q_growth and
            k_growth are given. FAR: whether dimensions rotate, so that a neuron also changes its partner's dimension.
            SINKS: whether heads have sinks. CAUSAL: whether a query sees no keys after its own. BIASED: whether biases
            are added to the scores.
    """

    batch: int
    heads: int
    kv_heads: int
    length: int
    size: int
    turned: int
    warp: int
    tensors: list[Tensor | int | None]
    flags: dict[str, bool]

    @classmethod
    def of(cls, problem: QKProblem) -> Heads:
        """Collects the tensors of the operators' argument."""
        q, k, q_plain, k_plain, cos, sin, valid, q_growth, k_growth, *_ = problem
        head_tensors = (
            q,
            k,
            q_plain,
            k_plain,
            _float32(q_growth),
            _float32(k_growth),
        )  # (B, heads, l, d) each, or None
        q, k = _contiguous_rows(q), _contiguous_rows(k)
        rotates = q_plain is not None and cos is not None and cos.shape[-1] > 0
        tensors = []
        for number, x in enumerate(head_tensors):
            # The kernel does not read a tensor that is not given, so any pointer will do. Odd numbers are of the keys.
            x = (k if number % 2 else q) if x is None else _contiguous_rows(x)
            tensors += [x, *x.stride()[:3]]
        cos, sin = (x.contiguous() if rotates else q for x in (cos, sin))
        turned = cos.shape[-1] if rotates else 0
        tensors += [
            cos,
            sin,
            cos.stride(0) if rotates and len(cos) > 1 else 0,
            turned,  # the stride of a token: cos and sin are contiguous
            valid.contiguous().view(torch.uint8),
            None if problem.sinks is None else problem.sinks.float().contiguous(),
        ]
        bias = None if problem.bias is None else problem.bias.float().contiguous()
        tensors += [bias, None if bias is None else bias.stride(0) if len(bias) > 1 else 0]
        flags = {
            "PLAIN": q_plain is not None,
            "FAR": rotates,
            "QUERY_GROWTH": q_growth is not None,
            "KEY_GROWTH": k_growth is not None,
            "SINKS": problem.sinks is not None,
            "CAUSAL": problem.causal,
            "BIASED": problem.bias is not None,
        }
        batch, heads, length, size = q.shape
        return cls(batch, heads, k.shape[1], length, size, turned, warp_size(q), tensors, flags)

    @property
    def tiles(self) -> int:
        """The number of tiles of rows of a head."""
        return ceil_div(self.length, ROWS.value)

    def max_visible_keys(self, window: int | None) -> int:
        """Returns the largest number of keys that a query sees, its own and those before it."""
        return self.length if window is None else min(window, self.length)

    @property
    def items(self) -> int:
        """The number of tiles of rows of all heads."""
        return self.tiles * self.batch * self.heads

    def launch(
        self,
        operator: str,
        kernel: triton.JITFunction,
        scratch_floats: Callable[[dict[str, object]], int],
        sums: int,
        outputs: tuple[Tensor, ...],
        problem: QKProblem,
    ) -> None:
        """Launches the kernel.

        Args:
            operator: name of the operator.
            kernel: its kernel.
            scratch_floats: called with the kernel's constants; returns how many floats of scratch memory a program
                needs.
            sums: number of sums that each item stores for each neuron.
            outputs: tensors for the results, in the order of the kernel's arguments, which are written.
            problem: the operator's arguments.
        """
        device = outputs[0].device
        constants, options = self.constants(operator, kernel, problem)
        programs = min(self.items, WAVES * programs_at_once(options, self.warp) * multiprocessors(device))
        arguments = (
            *self.tensors,
            torch.empty(programs * scratch_floats(constants), dtype=torch.float32, device=device),
            torch.empty(self.items * sums * constants["LANES"], dtype=torch.float32, device=device),
            counters(device, self.batch * self.kv_heads),
            *outputs,
            self.items,
            *self.scalars(problem),
        )
        launch_kernel(kernel, programs, arguments, constants, **options)

    def scalars(self, problem: QKProblem) -> tuple[int | float, ...]:
        """Returns the kernel's scalar arguments behind `items`."""
        sizes = self.tiles, self.heads, self.heads // self.kv_heads, self.length, self.size, self.turned
        return *sizes, self.max_visible_keys(problem.window), float(problem.scale), float(problem.softcap or 0), 0

    def constants(
        self, operator: str, kernel: triton.JITFunction, problem: QKProblem
    ) -> tuple[dict[str, object], dict[str, object]]:
        """Returns the kernel's constants, and the compile options."""
        constants, options = settings(operator, self.tensors[0].dtype, self.size, self.warp)
        flags = {**self.flags, "INTERLEAVED": problem.interleaved, "CAPPED": problem.softcap is not None}
        if is_interpreted(kernel):
            flags["PRECISION"] = "widened"  # see qk_sweep.product
        # Fusion is the default of Triton 3.6 and 3.9, which 3.10 will change.
        return {**constants, **flags}, {**options, "enable_fp_fusion": True}


@functools.cache
def settings(operator: str, dtype: torch.dtype, size: int, warp: int) -> tuple[dict[str, int | str], dict[str, int]]:
    """Returns the constants, and the compile options, that depend on the dtype and the size of the heads.

    Each lane computes one neuron of a head. Tiles have 64 keys, the height of Hopper's matrix instruction. In float32
    they have 32, because with 64 registers would spill. float32 attention scores are computed from three tf32 products
    each, where the tensor cores support tf32.

    Args:
        operator: name of the operator.
        dtype: dtype of the queries and keys.
        size: dimensions of a head.
        warp: threads of a warp.
    """
    lanes = max(16, triton.next_power_of_2(size))
    is_float32 = dtype == torch.float32
    keys = 32 if is_float32 else 64
    if operator == "qk_estimate" and keys == lanes:
        keys //= 2  # if scores and neurons have the same shape, Triton gives both the layout that suits scores
    constants = {"LANES": lanes, "KEYS": keys, "PRECISION": "tf32x3" if is_float32 and warp == 32 else "ieee"}
    options = {"num_warps": max(1, lanes // warp), "num_stages": 1}
    if operator == "qk_importance" and warp == 32 and lanes <= 128 and not is_float32:
        options["maxnreg"] = SWEEP_REGISTERS
    return constants, options


def programs_at_once(options: dict[str, int], warp: int) -> int:
    """Returns how many programs run at once on a multiprocessor. A launch of part of a wave would leave slots empty.

    Args:
        options: the launch's compile options, as `settings` returns them.
        warp: threads of a warp.
    """
    registers = options.get("maxnreg", 256 if warp == 32 else 512)  # without a limit the kernels use all registers
    return max(1, REGISTERS // registers // options["num_warps"])


def variants_of(operator: str, kernel: triton.JITFunction, warp: int) -> Iterator[Variant]:
    """Yields variants of an operator's kernel for head sizes, dtypes and kinds of attention. warp: threads of a warp.

    Tensors have the strides of (B, l, heads, d), with 32 query heads and 8 key heads. The kinds are "pre" (neurons are
    zeroed before the rotation), "post" (after it), "no rotation", "norm" (over the head), "cap" (a soft cap), "sinks",
    "both sides" (a query sees keys after its own) and "biases" of the scores.
    """
    for dtype, size, kind in (
        *((torch.bfloat16, size, "pre") for size in (32, 64, 128, 256)),
        (torch.float16, 128, "pre"),
        (torch.float32, 128, "pre"),
        *((torch.bfloat16, 128, kind) for kind in ("post", "no rotation", "norm")),
        (torch.bfloat16, 256, "cap"),
        (torch.bfloat16, 256, "norm, cap"),
        (torch.bfloat16, 64, "sinks"),
        (torch.bfloat16, 128, "sinks"),
        (torch.bfloat16, 64, "both sides"),
        (torch.bfloat16, 64, "no rotation, both sides"),
        (torch.bfloat16, 64, "no rotation, both sides, biases"),
    ):
        constants, options = settings(operator, dtype, size, warp)
        normed = "norm" in kind
        plain = "*fp32" if normed else POINTERS[dtype]
        rotates = kind != "post" and "no rotation" not in kind
        with_sinks, biased = "sinks" in kind, "biases" in kind
        absent = (*(() if with_sinks else ("Sinks",)), *(() if biased else ("Bias", "bias_batch")))
        yield Variant.of(
            operator,
            f"{short_name(dtype)}, d = {size}, {kind}",
            kernel,
            {
                **dict.fromkeys(("Query", "Key", "Cos", "Sin"), POINTERS[dtype]),
                **dict.fromkeys(("QueryPlain", "KeyPlain"), plain),
                **dict.fromkeys(("QueryGrowth", "KeyGrowth", "Scratch", "Partial"), "*fp32"),
                **dict.fromkeys((name for name in kernel.arg_names if name.endswith(("Out", "Error"))), "*fp32"),
                "Valid": "*u8",
                **dict.fromkeys((name for name in ("Sinks", "Bias") if name not in absent), "*fp32"),
                "Counters": "*i32",
                "scale": "fp32",
                "softcap": "fp32",
            },
            constants={
                **dict.fromkeys(("q_stride", "qp_stride", "qg_stride"), 32 * size),
                **dict.fromkeys(("k_stride", "kp_stride", "kg_stride"), 8 * size),
                "table_stride": size if rotates else 0,
                "PLAIN": kind != "post",
                "FAR": rotates,
                "INTERLEAVED": False,
                "QUERY_GROWTH": normed,
                "KEY_GROWTH": normed,
                "CAPPED": "cap" in kind,
                "SINKS": with_sinks,
                "CAUSAL": "both sides" not in kind,
                "BIASED": biased,
                **dict.fromkeys(absent),
                **constants,
            },
            divisible=(
                *(x for x in kernel.arg_names if x.endswith(("_batch", "_head")) and x not in PER_CALL),
                "size",
                "turned",
            ),
            **options,
        )


def _contiguous_rows(x: Tensor) -> Tensor:
    """Returns x (B, heads, l, d) with stride 1 in its last dimension."""
    return x if x.stride(3) == 1 else x.contiguous()


def _float32(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Returns the number of multiprocessors of a GPU, 1 on the CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


_counters: dict[tuple[torch.device, int], Tensor] = {}


def counters(device: torch.device, count: int) -> Tensor:
    """Returns at least `count` zeros, int32, in which the programs of a launch count. A launch leaves zeros behind.

    So one tensor is enough for all launches of a stream, which run one after the other. The replays of a CUDA graph may
    overlap with other launches, so each launch in a graph gets its own tensor.
    """
    if device.type != "cuda":
        return torch.zeros(count, dtype=torch.int32, device=device)
    if torch.cuda.is_current_stream_capturing():
        return torch.zeros(count, dtype=torch.int32, device=device)
    key = (device, torch.cuda.current_stream(device).cuda_stream)
    if key not in _counters or _counters[key].numel() < count:
        _counters[key] = torch.zeros(max(count, 1024), dtype=torch.int32, device=device)
    return _counters[key]
