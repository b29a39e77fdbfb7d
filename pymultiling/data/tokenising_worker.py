"""A process that tokenises: it answers pickles on its input by pickles on its output.

Started anew, not forked: a copy of a process with threads can hang. It ends when its input does, so with its parent.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from contextlib import ExitStack, suppress

from pymultiling.data.rows import Row
from pymultiling.data.tokenising import Documents, Tokenisation
from pymultiling.errors import CorpusError

# What can be imported there is what can be imported here, from the same places.
START = "import sys; sys.path[:] = sys.argv[1:]; from pymultiling.data.tokenising_worker import main; main()"


class Worker:
    """The parent's side. Making one does not wait for the process; its first call does."""

    def __init__(self, tokenisation: bytes):
        """tokenisation: pickled."""
        # One thread, since the forward has the others; a session of its own, since an interrupt is its parent's.
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-c", START, *sys.path]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process = subprocess.Popen(command, **pipes, env=environment, start_new_session=True)
        self._unsent = tokenisation

    def __call__(self, rows: list[Row]) -> Documents:
        """The rows' documents; raises what was raised there."""
        try:
            self._process.stdin.write(self._unsent)
            self._unsent = b""
            pickle.dump(rows, self._process.stdin)
            self._process.stdin.flush()
            found = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise CorpusError(
                f"a process that tokenises has ended (exit status {self._process.wait()}); with workers=0 (--workers 0) this "
                "one tokenises"
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
    tokenisation: Tokenisation | None = None
    while True:
        try:
            tokenisation = tokenisation or pickle.load(requests)
            rows = pickle.load(requests)
        except (EOFError, pickle.UnpicklingError):  # the parent is gone
            return
        try:
            answer = pickle.dumps(tokenisation(rows))
        except Exception as error:
            answer = pickle.dumps(CorpusError(f"{type(error).__name__} in tokenising: {error}"))
        try:
            answers.write(answer)
            answers.flush()
        except BrokenPipeError:  # the parent is gone
            os._exit(1)
