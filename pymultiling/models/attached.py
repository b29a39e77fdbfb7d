"""Attributes of modules that blocks of several threads replace, and that are put back when the last block ends.

Code that torch.compile made of a module without hooks does not look for new hooks. It does check whether the module has
a forward of its own, and which. Therefore, while a module has a hook, its class's forward is also set on the module. A
forward that the user has set is replaced by a function that calls it.

Meanwhile copies of the module are refused, and DataParallel's replicas run under the blocks of the thread that makes
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn, TypeAlias

from torch import nn

from pymultiling.models.blocks import REPLICA, Block, Named, Switch, attach_lock, blocks_on

# copy.deepcopy, pickle and torch.save look it up on the object. A copy would keep hooks that belong to the original.
_COPY = "__reduce_ex__"
_REPLICATE = "_replicate_for_data_parallel"  # torch calls it on every module, in the thread that calls DataParallel


# run(module, original, items, args, kwargs) calls a method of a module as blocks change it. module: the module, or a
# replica of it. original: the method. items: what the blocks that are on have attached to it, from the outermost to the
# innermost; at least one. args, kwargs: of the call.
Run: TypeAlias = Callable[[nn.Module, Callable[..., Any], Sequence[Any], tuple[Any, ...], dict[str, Any]], Any]


class _Method:
    """A method of one module. While `count` is not 0, the module has an attribute of this name."""

    def __init__(self, module: nn.Module, name: str):
        self.module, self.name = module, name
        self.count = 0
        self.items: tuple[tuple[Switch, Named], ...] = ()
        self._run: Run | None = None
        self._own: Callable[..., Any] | None = None  # what is set on the module
        self._previous: Callable[..., Any] | None = None  # what the user has set on the module
        self._original: Callable[..., Any] = getattr(module, name)

    def hold(self, switch: Switch, item: Named, run: Run | None) -> None:
        current = self.module.__dict__.get(self.name)
        if current is not None and current is not self._own:
            self._previous, self._original = current, _through(current)
        self.count += 1
        if run is not None:
            self._run, self.items = run, (*self.items, (switch, item))
        self._set()

    def release(self, item: Named) -> None:
        self.count -= 1
        if self.items:
            self.items = tuple([entry for entry in self.items if entry[1] is not item])
        if self.module.__dict__.get(self.name) is not self._own:
            return  # the user has set another one meanwhile
        if self.count:
            self._set()
        elif self._previous is None:
            del self.module.__dict__[self.name]
        else:
            vars(self.module)[self.name] = self._previous

    def of(self, module: nn.Module) -> Callable[..., Any]:
        """Returns the method for the module or a replica."""
        run, original = self._run, self._original
        if module is not self.module and self._previous is None:
            original = getattr(type(module), self.name).__get__(module)
        if run is None or not self.items:
            return original

        def call(*args: Any, **kwargs: Any) -> Any:
            items = [item.get() for switch, item in self.items if switch.is_on(module)]
            if not items:
                return original(*args, **kwargs)
            return run(module, original, items, args, kwargs)

        return call

    def _set(self) -> None:
        self._own = self.module.__dict__[self.name] = self.of(self.module)


class _Attached:
    """What is attached to one module."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.methods: dict[str, _Method] = {}
        vars(module)[_COPY] = _refuse
        vars(module)[_REPLICATE] = self._replicate

    def end(self) -> None:
        del vars(self.module)[_COPY], vars(self.module)[_REPLICATE]

    def _replicate(self) -> nn.Module:
        replica: nn.Module = getattr(type(self.module), _REPLICATE)(self.module)
        vars(replica)[REPLICA] = blocks_on(self.module)
        for name, method in self.methods.items():
            vars(replica)[name] = method.of(replica)
        return replica


_attached: dict[nn.Module, _Attached] = {}


def replace(block: Block, module: nn.Module, name: str, item: Any = None, run: Run | None = None) -> None:
    """Until the block ends, `run` calls a method of the module, where the block is on.

    Args:
        block: the block.
        module: the module.
        name: the name of the method.
        item: is given to `run`.
        run: calls the method; all blocks give the same for the same name and module. None: the method is not changed,
            but compiled code notices that something is attached to the module.
    """
    block.attach(partial(attach_item, block.switch, module, name, Named(item), run))


def attach_item(switch: Switch, module: nn.Module, name: str, item: Named, run: Run | None) -> Callable[[], None]:
    """Does what `replace` does, and returns the function that undoes it. The caller holds the locks of `Block`."""
    item.publish()
    attached = _attached.get(module)
    if attached is None:
        attached = _attached[module] = _Attached(module)
    method = attached.methods.get(name)
    if method is None:
        method = attached.methods[name] = _Method(module, name)
    method.hold(switch, item, run)
    return partial(_remove_item, attached, method, item)


def _remove_item(attached: _Attached, method: _Method, item: Named) -> None:
    method.release(item)
    item.withdraw()
    if not method.count:
        del attached.methods[method.name]
    if not attached.methods:
        attached.end()
        del _attached[attached.module]


def attached_items(module: nn.Module, name: str) -> list[Any]:
    """Returns what blocks that are on have attached to a method of the module, the outermost first."""
    attached = _attached.get(module)
    method = None if attached is None else attached.methods.get(name)
    return [] if method is None else [item.get() for switch, item in method.items if switch.is_on(module)]


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """Returns the attributes that are set on a module itself: those of its class and of its user.

    Those of torch (hooks, parameters, children) and those that blocks have attached are left out.
    """
    with attach_lock:  # other threads may attach something
        attached = _attached.get(module)
        names = () if attached is None else attached.methods
        return {name: value for name, value in vars(module).items() if not name.startswith("_") and name not in names}


def _through(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns another function that calls this one, for a module that already has a forward of its own.

    Compiled code notices that the module has another forward; with the same one it would not look for new hooks.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    call.__wrapped__ = function  # type: ignore[attr-defined]
    return call


def _refuse(*_: Any) -> NoReturn:
    raise ValueError(
        "the model is inside a block, such as that of deactivate, that is attached to its modules: copy or pickle it "
        "outside of the block, or save it with save_pretrained or state_dict, which give the model as it was"
    )
