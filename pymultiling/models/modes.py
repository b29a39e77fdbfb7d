"""Training and evaluation mode of a model's modules, switched by their own `train`, as user code switches them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from torch import nn

from pymultiling.models.blocks import compile_lock
from pymultiling.models.length_scaling import own_frequencies
from pymultiling.models.module_state import ModuleState


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode (no dropout). Afterwards it is bit for bit what it was.

    Layers with a `train` of their own may change their weights in it: a LoRA layer merges its product into the weight
    in evaluation mode. Subtracting the product again rounds, so the parameters and buffers of such layers are copied,
    and the copies are written back. Inside, rotations depend on the length of a batch alone, not on those before it.

    Blocks of several threads may end in any order: the last one makes the model what it was. Modes belong to the
    model, so that a forward in training mode, in another thread, meanwhile runs in evaluation mode.
    """
    use = _Use(model)
    try:
        with compile_lock(), _lock:
            use.begin()
        with own_frequencies(model):
            yield
    finally:
        with compile_lock(), _lock:
            use.end()


class _Use:
    """A block in which a model is in evaluation mode.

    Attributes:
        model: the model.
        restorations: what makes the model what it was before, in this order.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.restorations: list[_Restoration] = []
        _uses.append(self)

    def begin(self) -> None:
        """Puts the model into evaluation mode."""
        model = self.model
        if _any_in_training(model):  # usually it is not; looking takes a twentieth of the time
            changing = [module for module in model.modules() if type(module).train is not nn.Module.train]
            states = [ModuleState.of(module, with_parameters=True) for module in changing]
            self.restorations.append(_Restoration(_modes(model), states))
            model.eval()

    def end(self) -> None:
        """Restores the model, or leaves this to a later block that still uses it."""
        later = _uses[_uses.index(self) + 1 :]
        _uses.remove(self)
        for restoration in self.restorations:
            heirs = [use for use in later if not restoration.modes.keys().isdisjoint(use.model.modules())]
            if heirs:
                heirs[0].restorations.append(restoration)
            else:
                restoration.restore()


_uses: list[_Use] = []  # of all threads, from the oldest to the newest
_lock = threading.RLock()


@contextmanager
def preserve_modes(model: nn.Module) -> Iterator[None]:
    """On exit, every module is again in the training or evaluation mode that it had on entry."""
    modes = _modes(model)
    try:
        yield
    finally:
        _set_modes(modes)


def _modes(model: nn.Module) -> dict[nn.Module, bool]:
    return {module: module.training for module in model.modules()}


def _set_modes(modes: Mapping[nn.Module, bool]) -> None:
    """Switches modules by their `train`, which also switches their children. Therefore parents come first."""
    for module, training in modes.items():
        if module.training != training:
            module.train(training)
    for module, training in modes.items():  # a `train` may set modes that differ from its argument
        if module.training != training:  # setting an attribute of a module is slow
            module.training = training


def _any_in_training(model: nn.Module) -> bool:
    """Returns whether a module of the model is in training mode."""
    modules: list[nn.Module | None] = [model]
    while modules:
        module = modules.pop()
        if module is None:
            continue
        if module.training:
            return True
        modules.extend(module._modules.values())
    return False


class _Restoration(NamedTuple):
    """What a model was before it was put into evaluation mode.

    Attributes:
        modes: of every module, whether it was in training mode.
        states: what modules with a `train` of their own held.
    """

    modes: dict[nn.Module, bool]
    states: list[ModuleState]

    def restore(self) -> None:
        _set_modes(self.modes)
        for state in self.states:
            state.restore()
