"""The operators: they take tensors and know nothing of Hugging Face.

Each is a torch custom operator (torch.ops.pymultiling.*) behind a documented function with a `backend` argument:
"auto" takes the fastest that can run the tensors: "triton", the kernels for GPUs, or "cpp", those for the CPU, and where
neither can, "torch", the plain PyTorch reference. `registry.py` lists them; their functions are this module's.
"""

from importlib import import_module

from pymultiling.ops.backends import unavailable
from pymultiling.ops.registry import OPERATORS


def _public() -> dict[str, object]:
    """{name: function, or tuple that one returns} of every operator, from its file in this folder."""
    names = {"unavailable": unavailable}
    for operator in OPERATORS.values():
        function = OPERATORS[operator.public_function or operator.name]
        module = import_module(f"{__name__}.{function.module_name}")
        for name in filter(None, (function.name, operator.named)):
            names[name] = getattr(module, name)
    return names


_PUBLIC = _public()
globals().update(_PUBLIC)  # after all imports, each of which binds its module to the operator's name
__all__ = sorted(_PUBLIC)
