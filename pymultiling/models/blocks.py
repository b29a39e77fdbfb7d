"""Blocks that are on in one thread only: the thread, or the asyncio task, that entered them.

What a block attaches to a model is there for all threads. It asks `Switch.is_on` before it acts.

A block is also on in what its thread starts by calling the model: replicas for DataParallel, and a backward pass on the
threads of a GPU. Code that torch.compile made checks in every call which blocks are on.
"""

from __future__ import annotations

import itertools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Self, TypeAlias

import torch
from torch import nn

# attach() attaches something to a model, and returns the function that removes it.
Attach: TypeAlias = Callable[[], Callable[[], None]]

REPLICA = "_pymultiling_blocks"  # an attribute of DataParallel's replicas: the blocks of the thread that made them
_TORCH_KEY = "pymultiling.marks"  # of the objects that torch hands from a thread to its backward pass

_blocks: ContextVar[tuple[Block, ...]] = ContextVar("pymultiling_blocks", default=())
_marks: ContextVar[str] = ContextVar("pymultiling_marks")  # the marks of these blocks, one after the other
_in_all_threads: list[Block] = []
_numbers = itertools.count()
_no_lock = nullcontext()
# Reentrant: a signal handler, or a finalizer, may enter a block while another one is being entered.
attach_lock = threading.RLock()


class _Current:
    """Gives the marks of the blocks that are on; where none was ever entered, the object itself.

    torch.compile cannot trace a ContextVar. It does compare attributes that are computed in C in every call, as this
    one: its getter is the variable's `get`, whose argument is the value that it returns where nothing is set.
    """

    marks: Any = property(_marks.get)


_current = _Current()


class Switch:
    """Says where a block is on. What the block attaches refers to this object, so that no reference leads in a circle.

    Args:
        all_threads: as in `Block`.
        warns_new_threads: as in `Block`.
    """

    def __init__(self, all_threads: bool, warns_new_threads: bool):
        self.all_threads = all_threads
        self.mark = f"<{next(_numbers)}>"
        self.warns_new_threads = warns_new_threads and not all_threads
        self._has_warned = False
        self._old_threads: frozenset[int | None] = frozenset()
        if self.warns_new_threads:
            self._old_threads = frozenset(thread.ident for thread in threading.enumerate())

    def is_on(self, module: nn.Module) -> bool:
        """Whether the block is on where the module is called."""
        marks = _current.marks
        if self.all_threads or (marks is not _current and self.mark in marks):
            return True
        if torch.compiler.is_compiling():
            return False
        blocks_of_maker = vars(module).get(REPLICA)
        if blocks_of_maker is not None:
            return self.mark in _join(blocks_of_maker)
        if marks is _current and torch._C._current_graph_task_id() != -1:  # a backward pass, in a thread of torch
            return torch._C._is_key_in_tls(_TORCH_KEY) and self.mark in torch._C._get_obj_in_tls(_TORCH_KEY)
        if self.warns_new_threads and not self._has_warned:
            self._warn_new_thread()
        return False

    def _warn_new_thread(self) -> None:
        """Warns once, unless the thread is older than the block, or changes the model itself."""
        if threading.get_ident() in self._old_threads:
            return
        if any(block.switch.warns_new_threads for block in _blocks.get()):
            return
        self._has_warned = True
        warnings.warn(
            "a thread that was started while neurons are deactivated runs the model, and in it they are not "
            "deactivated: if they should be, give deactivate(..., threads='all')",
            stacklevel=4,
        )


class Block:
    """A context manager that removes on exit what was attached in it, in whichever order blocks end.

    Args:
        all_threads: whether the block is on in all threads.
        warns_new_threads: whether a thread that was started inside the block gets a warning when it runs the model,
            because the block is not on in it.

    Attributes:
        switch: says where the block is on.
    """

    def __init__(self, all_threads: bool = False, warns_new_threads: bool = False):
        self.switch = Switch(all_threads, warns_new_threads)
        self._attached: list[Attach] = []
        self._removals: list[Callable[[], None]] = []
        self._holders = 0  # the `with` block, and recomputations for gradients

    def __enter__(self) -> Self:
        self._hold()
        _switch((*_blocks.get(), self))
        return self

    def __exit__(self, *_: object) -> None:
        _switch(tuple(block for block in _blocks.get() if block is not self))
        self._release()

    @property
    def is_attached(self) -> bool:
        """Whether the block has not ended."""
        return self._holders > 0

    def attach(self, attach: Attach) -> None:
        """Attaches something from now on, or from the block's beginning if it has not begun, until its end.

        All that is attached at the block's beginning takes the locks once.
        """
        if self._holders == 0:
            self._attached.append(attach)
            return
        with compile_lock(), attach_lock:
            self._removals.append(attach())
            self._attached.append(attach)

    def _hold(self) -> None:
        with compile_lock(), attach_lock:
            if self._holders == 0:
                try:
                    for attach in self._attached:
                        self._removals.append(attach())
                except BaseException:
                    self._remove_all()
                    raise
                if self.switch.all_threads:
                    _in_all_threads.append(self)
            self._holders += 1

    def _release(self) -> None:
        with compile_lock(), attach_lock:
            self._holders -= 1
            if self._holders == 0:
                if self.switch.all_threads:
                    _in_all_threads.remove(self)
                self._remove_all()

    def _remove_all(self) -> None:
        while self._removals:
            self._removals.pop()()


class Named:
    """Holds what a block has attached, and gives it to compiled code under a name of its own.

    Compiled code reads tensors, such as masks, from where they were found when it was made. The place of a hook among
    those of a module changes when another thread attaches or removes one. The name does not change.
    """

    def __init__(self, value: Any):
        self._value = value
        self._name = f"attached_{next(_numbers)}"

    def get(self) -> Any:
        """Returns what the block has attached."""
        return getattr(_named, self._name) if torch.compiler.is_compiling() else self._value

    def publish(self) -> None:
        """Makes it available to compiled code."""
        vars(_named)[self._name] = self._value

    def withdraw(self) -> None:
        """Ends what `publish` began."""
        del vars(_named)[self._name]


class _Values:
    """What all blocks have attached, as attributes."""


_named = _Values()


def blocks_on(module: nn.Module) -> tuple[Block, ...]:
    """Returns the blocks that are on where the module is called, from the outermost to the innermost."""
    blocks: tuple[Block, ...] = vars(module).get(REPLICA, _blocks.get())
    others = tuple(block for block in tuple(_in_all_threads) if block not in blocks)
    return (*others, *(block for block in blocks if block.is_attached))


def with_blocks(blocks: tuple[Block, ...], function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with these blocks on, also if it is called after they have ended, and in another thread."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if _blocks.get() == blocks:
            return function(*args, **kwargs)
        with _on_again(blocks):
            return function(*args, **kwargs)

    return run


@contextmanager
def _on_again(blocks: tuple[Block, ...]) -> Iterator[None]:
    for block in blocks:
        block._hold()
    tokens = _blocks.set(blocks), _marks.set(_join(blocks))
    try:
        yield
    finally:
        _blocks.reset(tokens[0])
        _marks.reset(tokens[1])
        for block in reversed(blocks):
            block._release()


def _switch(blocks: tuple[Block, ...]) -> None:
    """Makes these blocks those that are on in the current thread or task."""
    _blocks.set(blocks)
    marks = _join(blocks)
    _marks.set(marks)
    torch._C._stash_obj_in_tls(_TORCH_KEY, marks)


def _join(blocks: tuple[Block, ...]) -> str:
    return "".join(block.switch.mark for block in blocks)


def compile_lock() -> AbstractContextManager[Any]:
    """Returns the lock that torch.compile holds while it traces a model, which must not change meanwhile."""
    compiler = sys.modules.get("torch._dynamo.convert_frame")
    lock: AbstractContextManager[Any] | None = getattr(compiler, "compile_lock", None)
    return _no_lock if lock is None else lock
