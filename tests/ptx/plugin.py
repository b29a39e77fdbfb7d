"""Makes pytest run Triton's kernels as PTX: `pytest tests/ops --ptx sm_90` runs the tests with backend "triton" only.

Kernels run as on a GPU: compiled in all their specialisations, at the sizes that are meant for a GPU.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.ptx.archive import Compiled, Specialization


def add_options(parser: pytest.Parser) -> None:
    """Adds the options to pytest."""
    group = parser.getgroup("ptx", "PTX of Triton kernels, interpreted without a GPU")
    group.addoption("--ptx", metavar="CHIP", help="run Triton kernels as compiled for this chip, such as sm_90")
    group.addoption(
        "--ptx-triton", metavar="VERSION", help="take the kernels that this Triton compiled: tests/ptx/archives"
    )
    group.addoption("--ptx-record", metavar="FOLDER", help="write compiled kernels to files in a folder")
    group.addoption(
        "--ptx-orders",
        choices=("one", "all"),
        default="one",
        help="run each launch in one order of warps and programs, or in all, and compare the results",
    )


def why_impossible() -> str | None:
    """Returns why kernels cannot be compiled or interpreted here, or None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    from tests.ptx.interpreter import COMPILER

    return "no C++ compiler" if COMPILER is None else None


def install(config: pytest.Config) -> None:
    """Makes Triton run its kernels in the interpreter, and the operators accept that."""
    if why_impossible() is not None:
        return
    from tests.ptx import driver, launches

    orders = launches.ORDERS if config.option.ptx_orders == "all" else (launches.SUSPICIOUS,)
    target, version = config.option.ptx, config.option.ptx_triton or importlib.metadata.version("triton")
    driver.install(target, orders, driver.from_archive(version, target, recorder(config.option.ptx_record)))

    from pymultiling.ops import backends as package
    from tests.support import backends as support

    package._triton_mismatch = lambda kernels, tensor: None  # which asks for a GPU
    support.KERNEL_DEVICE = "cpu"


def recorder(folder: str | None) -> Callable[[Specialization, Compiled], None]:
    """Returns a function that writes a compiled kernel to a file of its own, or nothing without a folder."""

    def record(specialization: Specialization, compiled: Compiled) -> None:
        if folder is not None and specialization.is_plain:
            contents = json.dumps((asdict(specialization), asdict(compiled)))
            Path(folder, f"{specialization.key}.json").write_text(contents)

    return record


def deselect(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves only the tests that run Triton kernels. Skips them where they cannot run."""
    selected = [x for x in items if getattr(x, "callspec", None) and x.callspec.params.get("backend") == "triton"]
    config.hook.pytest_deselected(items=[x for x in items if x not in selected])
    items[:] = selected
    if (reason := why_impossible()) is not None:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))
