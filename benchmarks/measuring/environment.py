"""What a results file says of where its numbers come from."""

import platform
import subprocess
from datetime import date
from pathlib import Path

import torch
import transformers

import pymultiling

FOLDER = Path(__file__).resolve().parent


def describe() -> dict[str, str | int]:
    return {
        "date": date.today().isoformat(),
        "commit": _said_by("git", "describe", "--always", "--dirty"),
        "pymultiling": pymultiling.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def describe_device(device: torch.device) -> dict[str, str | int]:
    """What there is to say of a GPU; of a CPU, `describe` says it."""
    if device.type != "cuda":
        return {"device": device.type}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "L2": properties.L2_cache_size,
        "driver": _said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "largest clock": _said_by("nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader"),
        "CUDA": torch.version.cuda,
        "triton": _triton(),
    }


def _triton() -> str:
    try:
        import triton
    except ImportError:
        return ""
    return triton.__version__


def _said_by(*command: str) -> str:
    """What a command prints; nothing where it is not there, or fails."""
    try:
        return subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
