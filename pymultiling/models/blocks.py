"""Blocks that are on in one thread only: the thread, or the asyncio task, that entered them.

What a block attaches to a model is there for all threads. It asks `Block.is_on` before it acts.

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
_TORCH_KEY = "pymultiling.blocks"  # of the objects that torch hands from a thread to its backward pass

_blocks: ContextVar[tuple[Block, ...]] = ContextVar("pymultiling_blocks", default=())
_marks: ContextVar[str] = ContextVar("pymultiling_marks")  # the marks of these blocks, one after the other
_in_all_threads: list[Block] = []
_numbers = itertools.count()
_lock = threading.RLock()  # a signal handler, or a finalizer, may enter a block while another one is being entered


class _Current:
    """Gives the marks of the blocks that are on; where none was ever entered, the object itself.

    torch.compile cannot trace a ContextVar. It does compare attributes that are computed in C in every call, as this
    one: its getter is the variable's `get`, whose argument is the value that it returns where nothing is set.
    """

    marks: Any = property(_marks.get)


_current = _Current()


class Block:
    """A context manager that removes on exit what was attached in it, in whichever order blocks end.

    Args:
        all_threads: whether the block is on in all threads.
        warns_new_threads: whether a thread that was started inside the block gets a warning when it runs the model,
            because the block is not on in it.
    """

    def __init__(self, all_threads: bool = False, warns_new_threads: bool = False):
        self._all_threads = all_threads
        self._mark = f"<{next(_numbers)}>"
        self._attached: list[Attach] = []
        self._removals: list[Callable[[], None]] = []
        self._holders = 0  # the `with` block, and recomputations for gradients
        self._warns_new_threads = warns_new_threads and not all_threads
        self._old_threads: frozenset[int | None] = frozenset()

    def __enter__(self) -> Self:
        if self._warns_new_threads:
            self._old_threads = frozenset(thread.ident for thread in threading.enumerate())
        self._hold()
        _switch((*_blocks.get(), self))
        return self

    def __exit__(self, *_: object) -> None:
        _switch(tuple(block for block in _blocks.get() if block is not self))
        self._release()

    def attach(self, attach: Attach) -> None:
        """Attaches something that is removed on exit."""
        with compile_lock(), _lock:
            self._removals.append(attach())
            self._attached.append(attach)

    def is_on(self, module: nn.Module) -> bool:
        """Whether the block is on where the module is called."""
        marks = _current.marks
        if self._all_threads or (marks is not _current and self._mark in marks):
            return True
        if torch.compiler.is_compiling():
            return False
        blocks_of_maker = vars(module).get(REPLICA)
        if blocks_of_maker is not None:
            return self in blocks_of_maker
        if marks is _current and torch._C._current_graph_task_id() != -1:  # a backward pass, in a thread of torch
            return torch._C._is_key_in_tls(_TORCH_KEY) and self in torch._C._get_obj_in_tls(_TORCH_KEY)
        if self._warns_new_threads:
            self._warn_new_thread()
        return False

    def _warn_new_thread(self) -> None:
        """Warns once, unless the thread is older than the block, or changes the model itself."""
        if threading.get_ident() in self._old_threads or any(block._warns_new_threads for block in _blocks.get()):
            return
        self._warns_new_threads = False
        warnings.warn(
            "a thread that was started while neurons are deactivated runs the model, and in it they are not "
            "deactivated: if they should be, give deactivate(..., threads='all')",
            stacklevel=4,
        )

    def _hold(self) -> None:
        with compile_lock(), _lock:
            self._holders += 1
            if self._holders == 1:
                self._removals = [attach() for attach in self._attached]
                if self._all_threads:
                    _in_all_threads.append(self)

    def _release(self) -> None:
        with compile_lock(), _lock:
            self._holders -= 1
            if self._holders == 0:
                if self._all_threads:
                    _in_all_threads.remove(self)
                while self._removals:
                    self._removals.pop()()


def blocks_on(module: nn.Module) -> tuple[Block, ...]:
    """Returns the blocks that are on where the module is called, from the outermost to the innermost."""
    blocks: tuple[Block, ...] = vars(module).get(REPLICA, _blocks.get())
    others = tuple(block for block in tuple(_in_all_threads) if block not in blocks)
    return (*others, *(block for block in blocks if block._holders))


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
    _marks.set(_join(blocks))
    torch._C._stash_obj_in_tls(_TORCH_KEY, blocks)


def _join(blocks: tuple[Block, ...]) -> str:
    return "".join(block._mark for block in blocks)


def compile_lock() -> AbstractContextManager[Any]:
    """Returns the lock that torch.compile holds while it traces a model, which must not change meanwhile."""
    compiler = sys.modules.get("torch._dynamo.convert_frame")
    lock: AbstractContextManager[Any] | None = getattr(compiler, "compile_lock", None)
    return nullcontext() if lock is None else lock
