"""Triton kernels of the operators, imported as pymultiling.triton_kernels.

A launcher has the name, arguments and results of its reference and launches one kernel (nearest_neighbors launches
two). The registry in pymultiling.ops lists the operators that have one. Importing this package does not import triton.
"""

from __future__ import annotations

import functools


@functools.cache
def interpreted() -> bool:
    """Returns whether the kernels run in Triton's interpreter: TRITON_INTERPRET was set when they were first imported.

    Raises:
        ImportError: triton cannot be imported.
    """
    from triton import JITFunction

    from pymultiling.triton_kernels.columns import kernel

    return not isinstance(kernel, JITFunction)
