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
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import triton

from tests.ptx import archive
from tests.ptx.archive import Entries, Specialization
from tests.ptx.driver import compile_to_ptx, gpu

TARGETS = ("sm_80", "sm_90")


def recorded(tests: list[str]) -> list[Specialization]:
    """Runs tests, long ones too, and returns how their kernels are compiled."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--ptx", "sm_90", "--ptx-record", folder, "-n", "auto", "--dist", "loadfile", "-q"]
        subprocess.run([sys.executable, "-m", "pytest", *tests, *options], check=True)
        files = sorted(Path(folder).glob("*.json"))
        return [Specialization.from_json(json.loads(file.read_text())) for file in files]


def update(target: str, specializations: Iterable[Specialization]) -> None:
    """Writes a chip's archive. What it already contains is not compiled again."""
    path = archive.path_of(triton.__version__, target)
    old = archive.read(path)
    entries: Entries = {}
    for specialization in specializations:
        key = specialization.key
        if key in old:
            entries[key] = old[key]
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
    specializations = list(archive.known_specializations()) if options.known else recorded(options.tests)
    for target in options.target:
        update(target, specializations)


if __name__ == "__main__":
    main()
