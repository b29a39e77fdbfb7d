"""Module hooks that are removed together, also after an exception, and that compiled code notices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from torch import nn
from torch.utils.hooks import RemovableHandle

from pymultiling.models.attached import attach_item
from pymultiling.models.blocks import Block, Named, Switch

# hook(module, args), hook(module, args, kwargs) and hook(module, args, output). What a hook returns, unless it is None,
# replaces the arguments or the output.
PreHook: TypeAlias = Callable[[nn.Module, tuple[Any, ...]], Any]
KeywordPreHook: TypeAlias = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]
OutputHook: TypeAlias = Callable[[nn.Module, tuple[Any, ...], Any], Any]

_ATTACHED = "attached"  # an attribute of the function that a module calls: where it is on, and the hook


class Hooks(Block):
    """A block that owns hooks. They are called where it is on: in the thread, or the asyncio task, that entered it."""

    def before(self, module: nn.Module, hook: PreHook) -> None:
        """Calls hook(module, args) before the module's forward."""
        is_on, named = self.switch.is_on, Named(hook)

        def call(module: nn.Module, args: tuple[Any, ...]) -> Any:
            return named.get()(module, args) if is_on(module) else None

        self._attach(module, named, call, module.register_forward_pre_hook)

    def before_with_keywords(self, module: nn.Module, hook: KeywordPreHook) -> None:
        """Calls hook(module, args, kwargs) before the module's forward."""
        is_on, named = self.switch.is_on, Named(hook)

        # torch passes no keywords if the hook is added or removed while another thread calls the module.
        def call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
            return named.get()(module, args, kwargs) if kwargs is not None and is_on(module) else None

        self._attach(module, named, call, partial(module.register_forward_pre_hook, with_kwargs=True))

    def after(self, module: nn.Module, hook: OutputHook) -> None:
        """Calls hook(module, args, output) after the module's forward."""
        is_on, named = self.switch.is_on, Named(hook)

        def call(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return named.get()(module, args, output) if is_on(module) else None

        self._attach(module, named, call, module.register_forward_hook)

    def _attach(
        self, module: nn.Module, named: Named, call: Callable[..., Any], register: Callable[..., RemovableHandle]
    ) -> None:
        vars(call)[_ATTACHED] = self.switch, named
        # A partial is two objects for Python's garbage collector, and a function with as many variables is seven.
        self.attach(partial(_add, self.switch, module, named, call, register))


def _add(
    switch: Switch, module: nn.Module, named: Named, call: Callable[..., Any], register: Callable[..., RemovableHandle]
) -> Callable[[], None]:
    release = attach_item(switch, module, "forward", named, None)
    return partial(_remove, register(call), release)


def _remove(handle: RemovableHandle, release: Callable[[], None]) -> None:
    handle.remove()
    release()


def is_acting(call: Callable[..., Any], module: nn.Module) -> bool:
    """Whether a module's hook acts here: that of a block where the block is on, any other hook everywhere."""
    attached: tuple[Switch, Named] | None = getattr(call, _ATTACHED, None)
    return attached is None or attached[0].is_on(module)


def acting_pre_hooks(module: nn.Module) -> list[Callable[..., Any]]:
    """Returns the hooks before the module's forward that act here: those of blocks that are on, and others."""
    hooks: list[Callable[..., Any]] = []
    for call in list(module._forward_pre_hooks.values()):
        if is_acting(call, module):
            attached: tuple[Switch, Named] | None = getattr(call, _ATTACHED, None)
            hooks.append(call if attached is None else attached[1].get())
    return hooks
