"""pymultiling: which neurons of a language model a language uses, and what happens without them.

Importing is light: torch, transformers and the kernels are loaded with the first name that needs them. The public names
stand in __init__.pyi.
"""

from importlib import import_module

import lazy_loader

__version__ = "0.1.0"

_MODULES = {"embedded": "demo_model", "pmi": "methods.pmi"}  # {public name: where the module is}

_loaded, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_MODULES, *_names]


def __getattr__(name: str):
    return import_module(f"{__name__}.{_MODULES[name]}") if name in _MODULES else _loaded(name)
