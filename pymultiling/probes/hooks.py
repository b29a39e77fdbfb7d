"""Module hooks that are removed together, also after an exception, and that compiled code notices."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


class Hooks:
    """A context manager that owns hook handles and removes just those.

    Code that torch.compile made of a module without hooks runs on without looking for new ones, but it does look whether
    the module has a forward of its own: while a module has a hook it gets its class's forward as its own.
    """

    def __init__(self) -> None:
        self._handles: list = []
        self._marked: list[nn.Module] = []

    def before(self, module: nn.Module, function: Callable, **options) -> None:
        """Calls function(module, args) (with_kwargs=True: and kwargs) before module's forward."""
        self._mark(module)
        self._handles.append(module.register_forward_pre_hook(function, **options))

    def after(self, module: nn.Module, function: Callable) -> None:
        """Calls function(module, args, output) after module's forward."""
        self._mark(module)
        self._handles.append(module.register_forward_hook(function))

    def _mark(self, module: nn.Module) -> None:
        if "forward" not in vars(module):
            module.forward = module.forward
            self._marked.append(module)

    def __enter__(self) -> Hooks:
        return self

    def __exit__(self, *_) -> None:
        while self._handles:
            self._handles.pop().remove()
        while self._marked:
            del self._marked.pop().forward
