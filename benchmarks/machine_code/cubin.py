"""What NVIDIA's own tools, which come with Triton, say of a compiled kernel."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from triton import knobs


def resource_usage(cubin: bytes) -> dict[str, int]:
    """Of the cubin's only kernel: {"REG": registers of a thread, "STACK": bytes, "LOCAL": bytes, ...}."""
    line = cuobjdump(cubin, "--dump-resource-usage").rsplit("Function", 1)[1]
    return {name: int(value) for name, value in re.findall(r"(\w+)(?:\[\d+\])?:(\d+)", line)}


def disassemble(cubin: bytes) -> str:
    """The machine code, as sass.py reads it."""
    return cuobjdump(cubin, "-sass")


def cuobjdump(cubin: bytes, option: str) -> str:
    program = shutil.which("cuobjdump", path=tool_folders())
    if program is None:
        raise FileNotFoundError("no cuobjdump: neither in the triton package nor on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        # cuobjdump looks for nvdisasm on the PATH
        environment = os.environ | {"PATH": tool_folders()}
        found = subprocess.run([program, option, file], env=environment, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"cuobjdump {option}: {found.stderr.strip()}")
    return found.stdout


def tool_folders() -> str:
    """The PATH, with the folder of Triton's own tools before it."""
    try:
        own = [os.path.dirname(knobs.nvidia.cuobjdump.path)]
    except RuntimeError:  # a Triton without them
        own = []
    return os.pathsep.join([*own, os.environ.get("PATH", os.defpath)])
