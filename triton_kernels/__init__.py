"""Triton kernels of the operators, imported as pymultiling.triton_kernels.

A launcher has its reference's name, arguments and results, and launches one kernel (nearest_neighbors two). Importing this imports no triton.
"""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

MODULES = (
    "active_count",
    "column_energy",
    "gated_ffn",
    "mask_neurons",
    "nearest_neighbors",
    "qk_estimate",
    "qk_importance",
    "value_energy",
)
_HOME_OF = {**{name: name for name in MODULES}, "mask_neurons_": "mask_neurons"}  # {launcher: its module}


def module(name: str) -> ModuleType:
    return import_module(f"{__name__}.{name}")


def launcher(operator: str) -> Callable | None:
    """The function that runs an operator; None where it has no kernel.

    Raises:
        ImportError: triton cannot be imported.
    """
    home = _HOME_OF.get(operator)
    return home and getattr(module(home), operator)


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter: TRITON_INTERPRET was set when they were first imported."""
    from triton import JITFunction

    return not isinstance(module("columns").kernel, JITFunction)


def __getattr__(name: str) -> tuple[ModuleType, ...]:
    if name == "OPERATORS":  # the modules, each with variants()
        return tuple(map(module, MODULES))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
