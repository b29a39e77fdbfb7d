"""The description of the machine and the software that results files contain."""

import platform
import subprocess
from datetime import date
from pathlib import Path

import torch
import transformers

import pymultiling

REPOSITORY = Path(__file__).resolve().parents[2]


def describe() -> dict[str, str | int]:
    """Describes the software and the CPU."""
    return {
        "date": date.today().isoformat(),
        "commit": _output_of("git", "describe", "--always", "--dirty"),
        "pymultiling": pymultiling.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def describe_device(device: torch.device) -> dict[str, str | int | None]:
    """Describes a GPU. For a CPU it only gives the type of the device; `describe` has the rest.

    "memory" and "L2" are sizes in bytes. "largest clock" is text of nvidia-smi, such as "1980 MHz".
    """
    if device.type != "cuda":
        return {"device": device.type}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "L2": properties.L2_cache_size,
        "driver": _output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "largest clock": _output_of("nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader"),
        "CUDA": torch.version.cuda,
        "triton": _triton_version(),
    }


def _triton_version() -> str:
    """Returns Triton's version, or "" if it is not installed."""
    try:
        import triton
    except ImportError:
        return ""
    return triton.__version__


def _output_of(*command: str) -> str:
    """Returns the output of a command, or "" if the command is missing or prints nothing.

    It runs in the repository, so that git describes the commit of this code, wherever the benchmark was started.
    """
    try:
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
