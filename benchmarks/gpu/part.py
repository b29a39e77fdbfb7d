"""Runs one part of the GPU benchmark in this process.

    python -m benchmarks.gpu.part MODULE ROWS [--rehearse]

The rows are appended to the file ROWS. With --rehearse it runs on the CPU with tiny sizes and TRITON_INTERPRET=1.
"""

import argparse
import os
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.workload import LLAMA_8B, REHEARSAL


def run_part(module: str, rows: Rows) -> None:
    """Runs a part on the GPU. The last row says how many kernels had to be compiled meanwhile."""
    from benchmarks.gpu.dry_launch import recorded_compilations

    with recorded_compilations() as compilations:
        import_module(module).measure(rows, LLAMA_8B, torch.device("cuda"))
    compiled = {x.key: f"{x.kernel}, {x.seconds:.1f} s" for x in compilations if not x.cached}
    found = len({x.key for x in compilations} - compiled.keys())
    columns = {"compiled meanwhile": len(compiled), "found in the cache": found, "kernels": list(compiled.values())}
    rows.add("kernels of parts", {"part": module.rpartition(".")[2]}, lambda: columns)


def rehearse_part(module: str, rows: Rows) -> None:
    """Runs a part on the CPU, with the Triton kernels in the interpreter."""
    os.environ["TRITON_INTERPRET"] = "1"
    from pymultiling.ops import dispatch

    torch.set_num_threads(1)
    dispatch.FASTEST["cpu"] = "triton"
    import_module(module).measure(rows, REHEARSAL, torch.device("cpu"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    run = rehearse_part if options.rehearse else run_part
    run(options.module, Rows(options.rows))


if __name__ == "__main__":
    main()
