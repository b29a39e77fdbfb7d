"""pymultiling: which neurons of a language model a language uses, and what happens without them.

Importing is light: torch, transformers and the kernels are loaded with the first name that needs them. The public names
stand in __init__.pyi.
"""

import lazy_loader

__version__ = "0.1.0"

_loaded, _, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", "embedded", *_names]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str):
    return _loaded("demo_model" if name == "embedded" else name)  # its former name
