"""Module hooks that are removed together, also after an exception, and that compiled code notices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeAlias

from torch import nn
from torch.utils.hooks import RemovableHandle

from pymultiling.models.refuse_copies import allow_copies, refuse_copies

# hook(module, args), hook(module, args, kwargs) and hook(module, args, output). What a hook returns, unless it is None,
# replaces the arguments or the output.
PreHook: TypeAlias = Callable[[nn.Module, tuple[Any, ...]], Any]
KeywordPreHook: TypeAlias = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]
OutputHook: TypeAlias = Callable[[nn.Module, tuple[Any, ...], Any], Any]


class Hooks:
    """A context manager that owns hook handles and removes only those.

    Code that torch.compile made of a module without hooks does not look for new hooks. It does check whether the module
    has a forward of its own. Therefore, while a module has a hook, its class's forward is also set on the module.
    Copies of the module are refused meanwhile.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._marked: list[nn.Module] = []
        self._refusing: list[nn.Module] = []

    def before(self, module: nn.Module, hook: PreHook) -> None:
        """Calls hook(module, args) before the module's forward."""
        self._mark(module)
        self._handles.append(module.register_forward_pre_hook(hook))

    def before_with_keywords(self, module: nn.Module, hook: KeywordPreHook) -> None:
        """Calls hook(module, args, kwargs) before the module's forward."""
        self._mark(module)
        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def after(self, module: nn.Module, hook: OutputHook) -> None:
        """Calls hook(module, args, output) after the module's forward."""
        self._mark(module)
        self._handles.append(module.register_forward_hook(hook))

    def _mark(self, module: nn.Module) -> None:
        if refuse_copies(module):
            self._refusing.append(module)
        if "forward" not in vars(module):
            module.forward = module.forward
            self._marked.append(module)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()
        while self._marked:
            del self._marked.pop().forward
        while self._refusing:
            allow_copies(self._refusing.pop())
