"""Puts the operators' test cases and the benchmarks' reader of machine code where these tests find them."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests" / "ops"), str(ROOT / "benchmarks")]
