"""Resources and machine code of a compiled kernel, read with NVIDIA's tools that Triton contains."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from triton import knobs


def resource_usage(cubin: bytes) -> dict[str, int]:
    """Returns {"REG": registers per thread, "STACK": bytes, "LOCAL": bytes, ...} of the cubin's only kernel."""
    line = run_cuobjdump(cubin, "--dump-resource-usage").rsplit("Function", 1)[1]
    return {name: int(value) for name, value in re.findall(r"(\w+)(?:\[\d+\])?:(\d+)", line)}


def disassemble(cubin: bytes) -> str:
    """Returns the machine code as text. sass.py parses it."""
    return run_cuobjdump(cubin, "-sass")


def disassemble_with_lines(cubin: bytes) -> str:
    """Returns the machine code as text, with comments that name the source lines of the instructions."""
    return run_tool("nvdisasm", cubin, "-gi", "-c")


def run_cuobjdump(cubin: bytes, option: str) -> str:
    """Returns the output of cuobjdump for a cubin."""
    return run_tool("cuobjdump", cubin, option)


def run_tool(name: str, cubin: bytes, *options: str) -> str:
    """Returns the output of one of NVIDIA's tools for a cubin."""
    program = shutil.which(name, path=tool_folders())
    if program is None:
        raise FileNotFoundError(
            f"{name} is neither in the triton package nor on the PATH: install NVIDIA's CUDA toolkit"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        # cuobjdump searches the PATH for nvdisasm.
        environment = os.environ | {"PATH": tool_folders()}
        completed = subprocess.run(
            [program, *options, file], env=environment, capture_output=True, text=True, check=False
        )
    if completed.returncode:
        raise RuntimeError(f"{name} {' '.join(options)}: {completed.stderr.strip()}")
    return completed.stdout


def tool_folders() -> str:
    """Returns the PATH, preceded by the folder of Triton's tools."""
    try:
        triton_folders = [str(Path(knobs.nvidia.cuobjdump.path).parent)]
    except RuntimeError:  # this Triton contains no such tools
        triton_folders = []
    return os.pathsep.join([*triton_folders, os.environ.get("PATH", os.defpath)])
