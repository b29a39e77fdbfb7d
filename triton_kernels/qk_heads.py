"""What the kernels of qk_importance and qk_estimate share: the tensors as they take them, items, settings, counters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.triton_kernels.qk_sweep import ROWS, wide
from pymultiling.triton_kernels.variant import POINTERS, Variant, short_name, warp_size

PROGRAMS = 4  # a multiprocessor; two are resident, the others wait, so that uneven rows even out

# Change from call to call: a kernel for every divisor of theirs would take ten seconds each to compile.
PER_CALL = ["items", "tiles", "heads", "group", "length", "window", "skew"]


@triton.jit
def pair(n, turned, INTERLEAVED: tl.constexpr):
    """The dimension that turns with n, and n's sign: +1 for the first of the pair, -1 for the second."""
    half = turned // 2
    first = n % 2 == 0 if INTERLEAVED else n < half
    partner = tl.where(first, n + 1, n - 1) if INTERLEAVED else tl.where(first, n + half, n - half)
    # The hint, true or not, only tells Triton 3.6 along which axis lanes lie: unaligned addresses are not loaded as vectors.
    partner = tl.max_contiguous(tl.where(n < turned, partner, n), 2)
    return partner, tl.where(first, 1.0, -1.0)


@triton.jit
def item_of(
    item, items, tiles, heads, group, length, window, Key, k_batch, k_head, KeyPlain, kp_batch, kp_head,
    KeyGain, kg_batch, kg_head, Cos, Sin, table_batch, Valid,
):  # fmt: skip
    """A tile of rows of a head: where it is, its tensors, and the keys [first, last) that its rows see between them."""
    # Rows far down see the most keys and come first. All heads of a row follow each other.
    rank = item % (items // tiles)
    tile = tiles - 1 - item // (items // tiles)
    b = rank // heads
    h = rank % heads
    kv = h // group
    valid = Valid + wide(b) * length
    key = Key + wide(b) * k_batch + wide(kv) * k_head
    key_plain = KeyPlain + wide(b) * kp_batch + wide(kv) * kp_head
    key_gain = KeyGain + wide(b) * kg_batch + wide(kv) * kg_head
    cos, sin = Cos + wide(b) * table_batch, Sin + wide(b) * table_batch
    rows = tile * ROWS + tl.arange(0, ROWS)
    there = tl.load(valid + rows, mask=rows < length, other=0) != 0
    first = tl.maximum(tile * ROWS - window + 1, 0)
    last = tl.where(tl.max(there.to(tl.int32), 0) == 1, tl.minimum(tile * ROWS + ROWS, length), first)
    return tile, b, h, kv, valid, key, key_plain, key_gain, cos, sin, rows, there, first, last


@dataclass(frozen=True)
class Heads:
    """An attention layer's tensors with their strides, in the order of the kernels' arguments."""

    batch: int
    heads: int
    kv_heads: int
    length: int
    size: int
    turned: int
    warp: int
    tensors: list
    given: dict[str, bool]

    @classmethod
    def of(cls, problem: QKProblem) -> Heads:
        q, k, q_plain, k_plain, cos, sin, valid, q_gain, k_gain, *_ = problem
        given = (q, k, q_plain, k_plain, _float32(q_gain), _float32(k_gain))
        q, k = _rows(q), _rows(k)
        rotates = q_plain is not None and cos is not None and cos.shape[-1] > 0
        tensors = []
        for at, x in enumerate(given):
            x = (k if at % 2 else q) if x is None else _rows(x)  # what is None is not read
            tensors += [x, *x.stride()[:3]]
        cos, sin = (x.contiguous() if rotates else q for x in (cos, sin))
        turned = cos.shape[-1] if rotates else 0
        tensors += [
            cos,
            sin,
            cos.stride(0) if rotates and len(cos) > 1 else 0,
            turned,
            valid.contiguous().view(torch.uint8),
        ]
        flags = {
            "PLAIN": q_plain is not None,
            "FAR": rotates,
            "QUERY_GAIN": q_gain is not None,
            "KEY_GAIN": k_gain is not None,
        }
        batch, heads, length, size = q.shape
        return cls(batch, heads, k.shape[1], length, size, turned, warp_size(q), tensors, flags)

    @property
    def tiles(self) -> int:
        return triton.cdiv(self.length, ROWS.value)

    def seen(self, window: int | None) -> int:
        """The most keys that a query sees."""
        return self.length if window is None else min(window, self.length)

    @property
    def items(self) -> int:
        """Tiles of rows of all heads."""
        return self.tiles * self.batch * self.heads

    def launch(
        self,
        operator: str,
        kernel: triton.JITFunction,
        scratch: Callable[[dict], int],
        sums: int,
        outputs: tuple[Tensor, Tensor],
        problem: QKProblem,
    ) -> None:
        """Runs the kernel; `scratch` gives a program's floats for its constants, `sums` are those of an item and lane."""
        device = outputs[0].device
        constants = self.constants(operator, problem)
        programs = min(self.items, PROGRAMS * multiprocessors(device))
        kernel[(programs,)](
            *self.tensors,
            torch.empty(programs * scratch(constants), dtype=torch.float32, device=device),
            torch.empty(self.items * sums * constants["LANES"], dtype=torch.float32, device=device),
            counters(device, self.batch * self.kv_heads),
            *outputs,
            self.items,
            *self.numbers(problem),
            **constants,
        )

    def numbers(self, problem: QKProblem) -> tuple:
        sizes = self.tiles, self.heads, self.heads // self.kv_heads, self.length, self.size, self.turned
        return *sizes, self.seen(problem.window), problem.scale, problem.softcap or 0.0, 0

    def constants(self, operator: str, problem: QKProblem) -> dict:
        chosen = settings(operator, self.tensors[0].dtype, self.size, self.warp)
        if not self.tensors[0].is_cuda:
            chosen["PRECISION"] = "widened"
        chosen["enable_fp_fusion"] = True  # by default Triton 3.10 will not make a product and a sum one instruction
        return {**self.given, "INTERLEAVED": problem.interleaved, "CAPPED": problem.softcap is not None, **chosen}


def settings(operator: str, dtype: torch.dtype, size: int, warp: int) -> dict:
    """A lane for every neuron of a head.

    Tiles of 64 keys, the height of Hopper's instruction; as many of float32 spill. float32 scores are three products of
    tf32 each, where the tensor cores know it.
    """
    lanes = max(16, triton.next_power_of_2(size))
    wide = dtype == torch.float32
    keys = 32 if wide else 64
    if operator == "qk_estimate" and keys == lanes:
        keys //= 2  # where scores and neurons have one shape, Triton gives them one layout, which suits scores alone
    return {
        "LANES": lanes,
        "KEYS": keys,
        "PRECISION": "tf32x3" if wide and warp == 32 else "ieee",
        "num_warps": max(1, lanes // warp),
        "num_stages": 1,
    }


def variants_of(operator: str, kernel: triton.JITFunction, lanes: int) -> Iterator[Variant]:
    """Heads of every width, dtype and kind of attention; strides as (B, l, heads, d) has them, 32 and 8 heads."""
    for dtype, size, kind in (
        *((torch.bfloat16, size, "pre") for size in (32, 64, 128, 256)),
        (torch.float16, 128, "pre"),
        (torch.float32, 128, "pre"),
        *((torch.bfloat16, 128, kind) for kind in ("post", "no rotation", "norm")),
        (torch.bfloat16, 256, "cap"),
        (torch.bfloat16, 256, "norm, cap"),
    ):
        chosen = settings(operator, dtype, size, lanes)
        gain = "norm" in kind
        plain = "*fp32" if gain else POINTERS[dtype]
        rotates = kind not in ("post", "no rotation")
        yield Variant.of(
            operator,
            f"{short_name(dtype)}, d = {size}, {kind}",
            kernel,
            {
                **dict.fromkeys(("Query", "Key", "Cos", "Sin"), POINTERS[dtype]),
                **dict.fromkeys(("QueryPlain", "KeyPlain"), plain),
                **dict.fromkeys(("QueryGain", "KeyGain", "Scratch", "Partial", "QueryOut", "KeyOut"), "*fp32"),
                "Valid": "*u8",
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
                "QUERY_GAIN": gain,
                "KEY_GAIN": gain,
                "CAPPED": "cap" in kind,
                **{name: chosen[name] for name in ("LANES", "KEYS", "PRECISION")},
            },
            divisible=tuple(name for name in kernel.arg_names if name.endswith(("_batch", "_head")))
            + ("size", "turned"),
            num_warps=chosen["num_warps"],
            num_stages=chosen["num_stages"],
        )


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _float32(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()


@functools.cache
def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


_zeros: dict[tuple, Tensor] = {}


def counters(device: torch.device, count: int) -> Tensor:
    """`count` zeros for the programs of a launch to count in, which leaves zeros behind: one tensor a stream will do.

    A graph gets its own: this is kept for launches that follow each other, which a graph's replay need not.
    """
    if device.type != "cuda":
        return torch.zeros(count, dtype=torch.int32, device=device)
    if torch.cuda.is_current_stream_capturing():
        return torch.zeros(count, dtype=torch.int32, device=device)
    key = (device, torch.cuda.current_stream(device).cuda_stream)
    if key not in _zeros or _zeros[key].numel() < count:
        _zeros[key] = torch.zeros(max(count, 1024), dtype=torch.int32, device=device)
    return _zeros[key]
