"""Makes an archive of PTX anew, for the Triton that is installed. `make archives` does it for all kernels.

    python -m tests.ptx.compile --tests FILE ...    learns from tests how kernels are compiled, then compiles them
    python -m tests.ptx.compile --like VERSION      compiles what the archive of this Triton version contains

Another Triton version compiles the same kernels if it comes first on the path:

    pip install --no-deps --target FOLDER triton==3.6.0
    PYTHONPATH=FOLDER python -m tests.ptx.compile --like 3.9.0
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
    parser.add_argument("--target", default="sm_90", help="chip (%(default)s)")
    kernels = parser.add_mutually_exclusive_group(required=True)
    kernels.add_argument("--like", metavar="VERSION", help="Triton version whose archive to compile again")
    kernels.add_argument("--tests", nargs="+", metavar="FILE", help="tests to run")
    options = parser.parse_args()
    compiled = recorded(options.tests, options.target) if options.tests else {}
    if options.like:
        specializations = archive.known_specializations(archive.path_of(options.like, options.target))
    else:
        specializations = [specialization for specialization, _ in compiled.values()]
    update(options.target, specializations, compiled)


if __name__ == "__main__":
    main()
