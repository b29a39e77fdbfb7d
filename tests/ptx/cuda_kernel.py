"""The PTX of qk_importance's CUDA kernel: compiled by nvcc where it is installed, else as it was kept.

python -m tests.ptx.cuda_kernel    makes the files in tests/ptx/archives anew
"""

from __future__ import annotations

import functools
import hashlib
import json
import lzma
import re
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

from tests.cuda.emulated import CSRC
from tests.ptx.archive import FOLDER, Compiled
from tests.ptx.registers import shorten

NVCC = shutil.which("nvcc")
THREADS = 256  # of a block
TARGETS = ("sm_80", "sm_90")


def path_of(target: str) -> Path:
    return FOLDER / f"nvcc-{target}.json.xz"


def source_key() -> str:
    """Returns a hash of the kernel's sources."""
    files = sorted(CSRC.glob("*.cu*")) + sorted(CSRC.glob("*.h"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:24]


@functools.cache
def compiled(target: str) -> Compiled | None:
    """Returns the kernel, or None if it has changed since it was kept and there is no nvcc."""
    path = path_of(target)
    if path.exists():
        kept = json.loads(lzma.decompress(path.read_bytes()))
        if kept.pop("key") == source_key():
            return Compiled(**kept)
    return None if NVCC is None else compile_to_ptx(target)


def compile_to_ptx(target: str) -> Compiled:
    """Compiles the kernel."""
    options = [NVCC, "-std=c++20", "-O3", f"-arch={target}", f"-I{CSRC}", "-ptx", "-o", "-"]
    ptx = subprocess.run(
        [*options, CSRC / "qk_importance_kernel.cu"], capture_output=True, text=True, check=True
    ).stdout
    # An array as large as a block's shared memory, which is declared without a size.
    text = '#include "qk_importance.cuh"\n__device__ char size[sizeof(pymultiling::Shared)];'
    sized = subprocess.run([*options, "-x", "cu", "-"], input=text, capture_output=True, text=True, check=True).stdout
    return Compiled(shorten(ptx), shared=int(re.search(r"\bsize\[(\d+)\]", sized)[1]), warps=THREADS // 32)


def main() -> None:
    for target in TARGETS:
        kept = {"key": source_key(), **asdict(compile_to_ptx(target))}
        path_of(target).write_bytes(lzma.compress(json.dumps(kept).encode(), preset=9))
        print(f"{path_of(target).name}: {path_of(target).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
