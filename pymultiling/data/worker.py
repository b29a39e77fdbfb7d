"""A process that tokenises: `python -m pymultiling.data.worker` answers pickles on its input by pickles on its output.

Started anew, not forked: a copy of a process with threads can hang. It ends when its input does, so with its parent.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from contextlib import ExitStack, suppress

from pymultiling.data.rows import Row
from pymultiling.data.tokenising import Documents, Tokenising


class Worker:
    """The parent's side. Making one does not wait for the process; its first call does."""

    def __init__(self, tokenising: bytes):
        """tokenising: pickled."""
        path = os.pathsep.join(os.path.abspath(one) for one in sys.path)  # what can be imported here can be there
        # One thread, since the forward has the others; a session of its own, since an interrupt is its parent's.
        environment = {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", "pymultiling.data.worker"]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process = subprocess.Popen(command, **pipes, env=environment, start_new_session=True)
        self._unsent = tokenising

    def __call__(self, rows: list[Row]) -> Documents:
        """The rows' documents; raises what was raised there."""
        try:
            self._process.stdin.write(self._unsent)
            self._unsent = b""
            pickle.dump(rows, self._process.stdin)
            self._process.stdin.flush()
            found = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise RuntimeError(
                f"a process that tokenises has ended (exit status {self._process.wait()}): with workers=0 this one does it"
            ) from None
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        with ExitStack() as stack:
            for pipe in (self._process.stdin, self._process.stdout):
                stack.callback(_close, pipe)
        self._process.wait()


def _close(pipe) -> None:
    with suppress(BrokenPipeError):  # what was not written yet
        pipe.close()


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    requests = sys.stdin.buffer
    tokenising: Tokenising = pickle.load(requests)
    while True:
        try:
            rows = pickle.load(requests)
        except EOFError:
            return
        try:
            answer = pickle.dumps(tokenising(rows))
        except Exception as error:
            answer = pickle.dumps(RuntimeError(f"{type(error).__name__} in tokenising: {error}"))
        try:
            answers.write(answer)
            answers.flush()
        except BrokenPipeError:  # the parent is gone
            os._exit(1)


if __name__ == "__main__":
    main()
