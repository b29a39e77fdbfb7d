"""Compares kernels with plain PyTorch on drawn calls for a number of minutes, and prints what differs.

    python -m tests.ops.fuzz [--minutes 60] [--seed 0] [--backends cpp triton] [--operators qk_importance ...]
                             [--extension PATH]

Every difference is printed as a case of `cases.py`, reduced by hypothesis. Put it into `found.py`, and mend what it
shows. The exit status is 1 if there is any. Rounds with the same seed draw the same calls. `--extension` names another
build of the C++ extension, such as one with sanitizers (`make fuzz-sanitized`).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections import Counter

os.environ.setdefault("TRITON_INTERPRET", "1")  # before the kernels are imported

import torch
from hypothesis import given, seed, settings

from pymultiling.ops import backends, unavailable
from pymultiling.ops.arguments import KernelBackend
from tests.ops.fuzz.comparison import compare, supports
from tests.ops.fuzz.strategies import STRATEGIES
from tests.support.operator_inputs import examples

EXAMPLES = {"cpp": 200, "triton": 5}  # of each operator in a round


def use_extension(path: str) -> None:
    """Loads the C++ extension at `path` instead of the installed one."""
    torch.ops.load_library(path)
    installed = backends.load_extension
    backends.load_extension = lambda name="_cpp": None if name == "_cpp" else installed(name)


def find_difference(operator: str, backend: KernelBackend, number: int, counts: Counter[str]) -> str | None:
    """Compares the calls of one round. Returns what differs, or None."""

    @seed(number)
    @settings(examples, max_examples=EXAMPLES[backend], derandomize=False, database=None, print_blob=False)
    @given(case=STRATEGIES[operator])
    def equal(case):
        if supports(case, backend):
            counts[backend] += 1
            try:
                compare(case, backend)
            except AssertionError as error:
                raise AssertionError(f"{case}: {error}") from None

    try:
        equal()
    except Exception as error:  # noqa: BLE001, kernels may raise anything
        return f"{backend}: {type(error).__name__}: {error}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60, help="how long to run (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="number of the first round (default: 0)")
    parser.add_argument("--backends", nargs="+", default=["cpp", "triton"], help="backends to compare")
    parser.add_argument("--operators", nargs="+", default=list(STRATEGIES), help="operators to compare (default: all)")
    parser.add_argument("--extension", help="the file of the C++ extension to run instead of the installed one")
    options = parser.parse_args()
    if options.extension:
        use_extension(options.extension)
    for backend in options.backends:
        if (reason := unavailable(backend)) is not None:
            parser.error(f"{backend} cannot run here: {reason}")
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # from NumPy in Triton's interpreter
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # torch.empty is NaN
    counts: Counter[str] = Counter()
    start, number, differences = time.monotonic(), options.seed, 0
    end = start + 60 * options.minutes
    while time.monotonic() < end:
        for operator in options.operators:
            for backend in options.backends:
                if time.monotonic() < end and (found := find_difference(operator, backend, number, counts)) is not None:
                    differences += 1
                    print(f"round {number}: {found}", flush=True)
        number += 1
    minutes = (time.monotonic() - start) / 60
    compared = ", ".join(f"{count} calls of {backend}" for backend, count in counts.items())
    print(f"{minutes:.1f} minutes, rounds {options.seed} to {number - 1}, {compared}: {differences} rounds differ")
    return min(differences, 1)


if __name__ == "__main__":
    sys.exit(main())
