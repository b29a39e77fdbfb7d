"""Makes the archives of PTX anew, for the Triton that is installed.

    python -m tests.ptx.compile                    learns from tests/ops how kernels are compiled, then compiles them
    python -m tests.ptx.compile --known            compiles what the archives of all Triton versions contain
    python -m tests.ptx.compile --target sm_80     for this chip only

Another Triton version compiles the same kernels if it comes first on the path:

    pip install --no-deps --target FOLDER triton==3.6.0
    PYTHONPATH=FOLDER python -m tests.ptx.compile --known
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

import triton

from tests.ptx import archive
from tests.ptx.archive import Entries, Specialization
from tests.ptx.driver import compile_to_ptx, gpu

TARGETS = ("sm_90", "sm_80")


def recorded(tests: list[str], target: str) -> Entries:
    """Runs tests, long ones too, and returns the kernels that they launch, compiled for a chip."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--ptx", target, "--ptx-record", folder, "-n", "auto", "--dist", "loadfile", "-q"]
        subprocess.run([sys.executable, "-m", "pytest", *tests, *options], check=True)
        return archive.read_recorded(Path(folder))


def update(target: str, specializations: Collection[Specialization], compiled: Entries) -> None:
    """Writes a chip's archive. Kernels that it contains or that are `compiled` are not compiled again.

    It keeps what it contains of other modules than those of the specialisations, if their code is still the same.
    """
    path = archive.path_of(triton.__version__, target)
    known = archive.read(path) | compiled
    modules = {specialization.module for specialization in specializations}
    entries = {key: known[key] for key in known if known[key][0].module not in modules and known[key][0].key == key}
    for specialization in specializations:
        key = specialization.key
        if key in known:
            entries[key] = known[key]
        else:
            source, options = specialization.source()
            entries[key] = specialization, compile_to_ptx(source, gpu(target), options)
            print(f"{target} {specialization.module}.{specialization.function}: compiled", flush=True)
    archive.write(path, entries)
    print(f"{path.name}: {len(entries)} kernels, {path.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", action="store_true", help="run no tests: compile what the archives contain")
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--tests", nargs="+", default=["tests/ops"], help="tests to run (%(default)s)")
    options = parser.parse_args()
    first = options.target[0]
    compiled = {} if options.known else recorded(options.tests, first)
    specializations = archive.known_specializations() if options.known else [kind for kind, _ in compiled.values()]
    for target in options.target:
        update(target, specializations, compiled if target == first else {})


if __name__ == "__main__":
    main()
