"""Triton kernels of the operators, imported as pymultiling.triton_kernels.

A launcher has its reference's name, arguments and results, and launches one kernel (nearest_neighbors two). Which operators
have one, the registry in pymultiling.ops says. Importing this imports no triton.
"""


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter: TRITON_INTERPRET was set when they were first imported."""
    from triton import JITFunction

    from pymultiling.triton_kernels.columns import kernel

    return not isinstance(kernel, JITFunction)
