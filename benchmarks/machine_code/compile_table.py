"""Compiles every Triton kernel ahead of time and prints the resources that it uses. No GPU is needed.

    python -m benchmarks.machine_code.compile_table [--target sm_90 ...] [--operator NAME ...] [--variant NAME ...]
                                       [--dtype bf16 ...] [--out FILE.csv] [--code FOLDER]

The table has a row for every variant of a kernel and every target. The columns are: registers per thread, bytes of
spilled registers per thread, instructions of the innermost loops that access spilled registers, bytes of shared memory
per block, the chip's limit of these bytes, resident warps per multiprocessor, and seconds of compilation (0 for kernels
in Triton's cache).
"""

import argparse
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import pandas
import triton

from benchmarks.machine_code.ahead_of_time import compile_variant, dtype, machine_code, resources, variants
from benchmarks.machine_code.chips import CHIPS


class Job(NamedTuple):
    """A variant of an operator's kernel, to be compiled for a target."""

    operator: str
    variant: str
    target: str

    def __str__(self) -> str:
        return f"{self.operator} ({self.variant}) for {self.target}"


def make_row(job: Job, folder: Path | None) -> dict[str, object]:
    """Compiles a kernel and returns its row. Writes its machine code to `folder` if it is not None."""
    variant, chip = variants(job.target)[job.operator, job.variant], CHIPS[job.target]
    start = time.perf_counter()
    kernel = compile_variant(variant, job.target)
    seconds = time.perf_counter() - start
    used = resources(kernel)
    row: dict[str, object] = {
        **job._asdict(),
        "warps": variant.num_warps,
        **used,
        "shared_limit": chip.shared_block,
        "resident_warps": chip.resident_warps(used["registers"], used["shared"], variant.num_warps),
        "seconds": round(seconds, 1),
    }
    if folder is not None:
        name = re.sub(r"\W+", "-", "-".join(job)) + ".txt"
        row["code"] = name
        (folder / name).write_text(machine_code(kernel))
    return row


def compile_all(jobs: list[Job], folder: Path | None) -> tuple[list[dict[str, object]], list[str]]:
    """Compiles all jobs in parallel. Progress goes to stderr.

    Returns:
        The rows, in the order of the jobs, and the errors of the jobs that failed.
    """
    rows: dict[Job, dict[str, object]] = {}
    errors: list[str] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        futures = {pool.submit(make_row, job, folder): job for job in jobs}
        for done, future in enumerate(as_completed(futures), 1):
            job = futures[future]
            print(f"{done}/{len(jobs)} {job}", file=sys.stderr, flush=True)
            if (error := future.exception()) is None:
                rows[job] = future.result()
            else:
                # The pool makes the worker's traceback, as text, the cause of the worker's exception.
                errors.append(f"{job}: {error.__cause__ or error}")
    return [rows[job] for job in jobs if job in rows], errors


def is_selected(name: str, names: list[str] | None) -> bool:
    """Returns whether `names` contains the name. None contains all names."""
    return names is None or name in names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", nargs="+", choices=CHIPS, default=list(CHIPS), help="chips (default: all)")
    parser.add_argument("--operator", nargs="+", help="operators (default: all)")
    parser.add_argument("--variant", nargs="+", help="names of variants (default: all)")
    parser.add_argument("--dtype", nargs="+", help="Triton's names of dtypes, such as bf16 (default: all)")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    parser.add_argument("--code", type=Path, help="folder for the machine code of every kernel")
    options = parser.parse_args()
    if triton.knobs.runtime.interpret:
        sys.exit("TRITON_INTERPRET is set, so that Triton interprets kernels and compiles nothing: unset it.")
    if options.code:
        options.code.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(operator, name, target)
        for target in options.target
        for (operator, name), variant in variants(target).items()
        if is_selected(operator, options.operator)
        if is_selected(name, options.variant)
        if is_selected(dtype(variant), options.dtype)
    ]
    rows, errors = compile_all(jobs, options.code)
    table = pandas.DataFrame(rows)
    print(table.drop(columns="code", errors="ignore").to_string(index=False))
    if options.out:
        table.to_csv(options.out, index=False)
    if errors:
        sys.exit("\n".join(errors))


if __name__ == "__main__":
    main()
