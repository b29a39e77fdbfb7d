"""The GPU benchmark. It runs in a checkout, also where the package is not installed."""

import importlib.util
from pathlib import Path

import pymultiling

if importlib.util.find_spec("pymultiling.triton_kernels") is None:
    pymultiling.__path__.append(str(Path(__file__).resolve().parents[2]))  # the folder that contains triton_kernels
