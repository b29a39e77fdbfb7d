"""SIGTERM, which a scheduler sends, and SIGHUP of a closed terminal end a command as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGTERM", "SIGHUP")  # Windows has the first only


class Terminated(KeyboardInterrupt):
    """A signal asked the command to end.

    Attributes:
        number: the number of the signal.
        name: its name, such as "SIGTERM".
    """

    def __init__(self, number: int):
        self.number, self.name = number, signal.Signals(number).name
        super().__init__(self.name)


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Raises Terminated in the block when one of the signals arrives, so that temporary files are removed.

    A signal that is ignored, as under nohup, or that has a handler keeps it. Only the main thread can do this.
    """
    is_main = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    ours = [number for number in numbers if is_main and signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _raise(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not stop the removal of temporary files
    raise Terminated(number)
