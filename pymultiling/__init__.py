"""pymultiling: finds the neurons that a language model uses for a language, and shows what happens without them.

`import pymultiling` is fast: torch, transformers and the kernels are imported with the first name that needs them.
__init__.pyi lists the public names and says where each is defined.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.1.0"

_load_name, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
_FORMER_NAMES = {"embedded": "demo_model"}  # they still work, and are not listed


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    return _load_name(_FORMER_NAMES.get(name, name))
