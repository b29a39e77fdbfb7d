"""What the device can do at best, measured: copying, bf16 matrix products, exponentials."""

import statistics

import torch

from benchmarks.gpu.device_timing import Stopwatch
from benchmarks.gpu.rows import NotHere, Rows
from benchmarks.gpu.workload import DTYPE, Workload


def measure(rows: Rows, stopwatch: Stopwatch, workload: Workload, device: torch.device) -> dict[str, float]:
    """{"copy": bytes a second, read and written; "matmul": operations a second; "exp2": exponentials a second}.

    A ceiling that could not be measured is left out, and its row says why.
    """
    found = {}
    for name, prepare in {"copy": _copy, "matmul": _matmul, "exp2": _exponentials}.items():

        def rate(name=name, prepare=prepare) -> dict:
            run, work, unit = prepare(workload, device)
            found[name] = 1e3 * work / statistics.median(stopwatch.repeat(run))
            return {"a second": float(f"{found[name]:.4g}"), "of": unit}

        rows.add("ceilings", {"ceiling": name}, rate)
    return found


def _copy(workload, device):
    source = torch.randn(workload.copied // 4, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * source.nbytes, "bytes, read and written"


def _matmul(workload, device):
    size = workload.matrix
    a, b = torch.randn(2, size, size, device=device, dtype=DTYPE)
    return lambda: a @ b, 2 * size**3, f"operations, bf16, {size}^3"


def _exponentials(workload, device):
    if device.type != "cuda":
        raise NotHere("the kernel that measures it is a GPU's")
    from benchmarks.gpu.exponentials import Exponentials

    run = Exponentials(device)
    return run, run.count, "exponentials, float32"
