"""Module hooks that are removed together, also after an exception."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


class Hooks:
    """A context manager that owns hook handles and removes just those."""

    def __init__(self) -> None:
        self._handles: list = []

    def before(self, module: nn.Module, function: Callable, **options) -> None:
        """Calls function(module, args) (with_kwargs=True: and kwargs) before module's forward."""
        self._handles.append(module.register_forward_pre_hook(function, **options))

    def after(self, module: nn.Module, function: Callable) -> None:
        """Calls function(module, args, output) after module's forward."""
        self._handles.append(module.register_forward_hook(function))

    def __enter__(self) -> Hooks:
        return self

    def __exit__(self, *_) -> None:
        while self._handles:
            self._handles.pop().remove()
