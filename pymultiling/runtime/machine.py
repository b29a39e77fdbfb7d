"""Describes the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def describe_machine() -> dict[str, str]:
    """Returns {part: text}: the system, the CPU, its instruction set as torch names it, and the GPUs."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "system": platform.platform(),
        "CPU": f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used",
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "GPU": ", ".join(gpus) or "none that torch can use",
    }


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
