"""Every Triton kernel compiled ahead of time: what it takes of a chip, without the chip.

    python -m benchmarks.machine_code.compile_table [--target sm_90 ...] [--operator NAME ...] [--variant NAME ...]
                                       [--dtype bf16 ...] [--out FILE.csv] [--code FOLDER]

A row for every variant of a kernel and every target: registers of a thread, bytes spilled from them and how many instructions
of its innermost loops that takes, bytes of a block's shared memory and the chip's limit, how many warps a processor then holds
at once, and how long the compiler took (nothing for what is in Triton's cache). No GPU is needed.
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
    operator: str
    variant: str
    target: str

    def __str__(self) -> str:
        return f"{self.operator} ({self.variant}) for {self.target}"


def row(job: Job, folder: Path | None) -> dict:
    variant, chip = variants(job.target)[job.operator, job.variant], CHIPS[job.target]
    start = time.perf_counter()
    kernel = compile_variant(variant, job.target)
    seconds = time.perf_counter() - start
    used = resources(kernel)
    found = {
        **job._asdict(),
        "warps": variant.num_warps,
        **used,
        "shared_limit": chip.shared_block,
        "resident_warps": chip.resident_warps(used["registers"], used["shared"], variant.num_warps),
        "seconds": round(seconds, 1),
    }
    if folder is not None:
        found["code"] = re.sub(r"\W+", "-", "-".join(job)) + ".txt"
        (folder / found["code"]).write_text(machine_code(kernel))
    return found


def compile_all(jobs: list[Job], folder: Path | None) -> tuple[list[dict], list[str]]:
    """Rows, in the order of the jobs, and what went wrong with the others. Progress goes to stderr."""
    found, errors = {}, []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        futures = {pool.submit(row, job, folder): job for job in jobs}
        for done, future in enumerate(as_completed(futures), 1):
            job = futures[future]
            print(f"{done}/{len(jobs)} {job}", file=sys.stderr, flush=True)
            if (error := future.exception()) is None:
                found[job] = future.result()
            else:
                errors.append(f"{job}: {error.__cause__ or error}")
    return [found[job] for job in jobs if job in found], errors


def wanted(name: str, names: list[str] | None) -> bool:
    return names is None or name in names


def main() -> None:
    if triton.knobs.runtime.interpret:
        sys.exit("TRITON_INTERPRET is set: kernels run in Python then, and nothing is compiled. Unset it.")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", nargs="+", choices=CHIPS, default=list(CHIPS))
    parser.add_argument("--operator", nargs="+")
    parser.add_argument("--variant", nargs="+")
    parser.add_argument("--dtype", nargs="+", help="of the tensors, Triton's name")
    parser.add_argument("--out", type=Path, help="CSV to write")
    parser.add_argument("--code", type=Path, help="folder to write the machine code to")
    options = parser.parse_args()
    if options.code:
        options.code.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(operator, name, target)
        for target in options.target
        for (operator, name), variant in variants(target).items()
        if wanted(operator, options.operator)
        if wanted(name, options.variant)
        if wanted(dtype(variant), options.dtype)
    ]
    found, errors = compile_all(jobs, options.code)
    table = pandas.DataFrame(found)
    print(table.drop(columns="code", errors="ignore").to_string(index=False))
    if options.out:
        table.to_csv(options.out, index=False)
    if errors:
        sys.exit("\n".join(errors))


if __name__ == "__main__":
    main()
