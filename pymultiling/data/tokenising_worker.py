"""A worker process that tokenises: it reads pickled records from stdin and writes pickled documents to stdout.

The worker is a new process and not a fork, since the fork of a process with threads can hang. It ends when its stdin
ends, which also happens when its parent ends.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from contextlib import ExitStack, suppress
from typing import IO

from pymultiling.data.rows import Record
from pymultiling.data.tokenising import Documents, Tokenisation
from pymultiling.errors import CorpusError, type_and_text

# The worker gets this process's sys.path as arguments, so that it imports the same modules.
START = "import sys; sys.path[:] = sys.argv[1:]; from pymultiling.data.tokenising_worker import main; main()"


class Worker:
    """A worker, as its parent process sees it. The first call waits until the process has started."""

    def __init__(self, tokenisation: bytes):
        """Starts the process and does not wait for it.

        Args:
            tokenisation: a pickled Tokenisation.
        """
        # The tokenizer gets one thread, since the model uses the others. The process runs in a new session, so that an
        # interrupt from the terminal reaches the parent only.
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None  # both are pipes
        self._requests: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        self._unsent = tokenisation

    def __call__(self, records: list[Record]) -> Documents:
        """Returns the documents of the records, or raises the exception of the worker."""
        try:
            self._requests.write(self._unsent)
            self._unsent = b""
            pickle.dump(records, self._requests)
            self._requests.flush()
            answer: Documents | Exception = pickle.load(self._answers)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise CorpusError(
                f"a process that tokenises has ended (exit status {self._process.wait()}): give workers=0 "
                "(--workers 0) to tokenise without extra processes"
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Kills the process."""
        self._process.kill()
        with ExitStack() as stack:
            for pipe in (self._requests, self._answers):
                stack.callback(_close, pipe)
        self._process.wait()


def _close(pipe: IO[bytes]) -> None:
    with suppress(BrokenPipeError):  # raised if data were not written yet
        pipe.close()


def main() -> None:
    """Answers requests until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keeps what libraries print out of the answers
    requests = sys.stdin.buffer
    tokenisation: Tokenisation | None = None
    while True:
        try:
            tokenisation = tokenisation or pickle.load(requests)
            records = pickle.load(requests)
        except (EOFError, pickle.UnpicklingError):  # the parent has ended
            return
        try:
            answer = pickle.dumps(tokenisation(records))
        except Exception as error:  # noqa: BLE001 - the parent raises it
            message = f"the tokenizer fails ({type_and_text(error)}): call it on texts of the corpus to find the cause"
            answer = pickle.dumps(CorpusError(message))
        try:
            answers.write(answer)
            answers.flush()
        except BrokenPipeError:  # the parent has ended
            os._exit(1)
