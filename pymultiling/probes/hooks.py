"""Module hooks that are removed together, also after an exception, and that compiled code notices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import nn
from torch.utils.hooks import RemovableHandle

from pymultiling.models.attached import replace
from pymultiling.models.blocks import Block

# hook(module, args), hook(module, args, kwargs) and hook(module, args, output). What a hook returns, unless it is None,
# replaces the arguments or the output.
PreHook: TypeAlias = Callable[[nn.Module, tuple[Any, ...]], Any]
KeywordPreHook: TypeAlias = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]
OutputHook: TypeAlias = Callable[[nn.Module, tuple[Any, ...], Any], Any]

_ATTACHED = "attached"  # an attribute of the function that a module calls: the block and the hook


class Hooks(Block):
    """A block that owns hooks. They are called where it is on: in the thread, or the asyncio task, that entered it."""

    def before(self, module: nn.Module, hook: PreHook) -> None:
        """Calls hook(module, args) before the module's forward."""
        is_on = self.is_on

        def call(module: nn.Module, args: tuple[Any, ...]) -> Any:
            return hook(module, args) if is_on(module) else None

        self._attach(module, hook, call, lambda: module.register_forward_pre_hook(call))

    def before_with_keywords(self, module: nn.Module, hook: KeywordPreHook) -> None:
        """Calls hook(module, args, kwargs) before the module's forward."""
        is_on = self.is_on

        # torch passes no keywords if the hook is added or removed while another thread calls the module.
        def call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
            return hook(module, args, kwargs) if kwargs is not None and is_on(module) else None

        self._attach(module, hook, call, lambda: module.register_forward_pre_hook(call, with_kwargs=True))

    def after(self, module: nn.Module, hook: OutputHook) -> None:
        """Calls hook(module, args, output) after the module's forward."""
        is_on = self.is_on

        def call(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return hook(module, args, output) if is_on(module) else None

        self._attach(module, hook, call, lambda: module.register_forward_hook(call))

    def _attach(
        self, module: nn.Module, hook: object, call: Callable[..., Any], register: Callable[[], RemovableHandle]
    ) -> None:
        setattr(call, _ATTACHED, (self, hook))
        replace(self, module, "forward")
        self.attach(lambda: register().remove)


def acting_pre_hooks(module: nn.Module) -> list[Callable[..., Any]]:
    """Returns the hooks before the module's forward that act here: those of blocks that are on, and others."""
    hooks = []
    for call in list(module._forward_pre_hooks.values()):
        block, hook = getattr(call, _ATTACHED, (None, call))
        if block is None or block.is_on(module):
            hooks.append(hook)
    return hooks
