"""Builds the extension with the kernel in CUDA C++ in place, as setup.py does, but not the extension in C++.

python -m benchmarks.gpu.build_cuda
"""

import sys
from pathlib import Path

import setuptools  # noqa: F401, it extends distutils

from distutils.core import run_setup  # isort: skip

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = "pymultiling._cuda"


def main() -> int:
    distribution = run_setup(str(ROOT / "setup.py"), ["build_ext", "--inplace"], stop_after="commandline")
    distribution.ext_modules = [x for x in distribution.ext_modules or [] if x.name == EXTENSION]
    if not distribution.ext_modules:
        print("the extension is not built: there is no nvcc, or torch has no CUDA")
        return 0
    distribution.run_commands()
    return 0 if distribution.have_run.get("build_ext") and list((ROOT / "pymultiling").glob("_cuda*.so")) else 1


if __name__ == "__main__":
    sys.exit(main())
