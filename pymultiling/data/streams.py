"""Documents of corpora as a pass needs them: read here, tokenised by workers beside the forward."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, islice

from pymultiling.data.chunks import Chunk
from pymultiling.data.tokenising import Documents, Tokenisation
from pymultiling.data.tokenising_worker import Worker

AHEAD = 2  # chunks that are with a worker or wait for one, for each worker


def stream(chunks: Iterable[Chunk], tokenisation: Tokenisation, workers: int) -> Iterator[tuple[Chunk, Documents]]:
    """The chunks, each with its documents, in order.

    Reading is this process's, so that sources need not be copied; so many `workers`, processes of their own, tokenise what comes
    next. The first chunk, for which they would not have begun, is this one's too, and so are all with a tokenizer that cannot
    be sent. What goes wrong in reading is raised when all that was read before has been given.
    """
    failure: list[Exception] = []
    readable = _until_failure(chunks, failure)
    first = list(islice(readable, 3))  # a chunk with rows, and one that says that the corpus has ended
    sent = _pickled(tokenisation) if workers and len(first) == 3 else None
    readable = chain(first, readable)
    if sent is None:
        yield from ((chunk, tokenisation(chunk.rows)) for chunk in readable)
    else:
        yield from _from_workers(readable, tokenisation, sent, workers)
    if failure:
        raise failure[0]


def _from_workers(
    chunks: Iterable[Chunk], tokenisation: Tokenisation, sent: bytes, workers: int
) -> Iterator[tuple[Chunk, Documents]]:
    started = [Worker(sent) for _ in range(workers)]
    idle = deque(started)
    own = threading.local()  # each thread waits for a worker of its own

    def take() -> None:
        own.worker = idle.popleft()

    pool = ThreadPoolExecutor(workers, initializer=take)
    try:
        coming: deque[tuple[Chunk, Callable[[], Documents]]] = deque()
        for number, chunk in enumerate(chunks):
            if number:
                answer = pool.submit(lambda rows: own.worker(rows), chunk.rows).result
            else:
                answer = partial(tokenisation, chunk.rows)
            coming.append((chunk, answer))
            if len(coming) > AHEAD * workers:
                yield _answered(*coming.popleft())
        while coming:
            yield _answered(*coming.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in started:
            worker.close()
        pool.shutdown()


def _answered(chunk: Chunk, answer: Callable[[], Documents]) -> tuple[Chunk, Documents]:
    return chunk, answer()


def _until_failure(chunks: Iterable[Chunk], failure: list[Exception]) -> Iterator[Chunk]:
    try:
        yield from chunks
    except Exception as error:
        failure.append(error)


def _pickled(tokenisation: Tokenisation) -> bytes | None:
    """None where another process could not read it."""
    kind = type(tokenisation.tokenizer)
    try:
        if kind.__module__ == "__main__":
            raise TypeError(f"{kind.__name__} is defined in a script or notebook")
        return pickle.dumps(tokenisation)
    except Exception as error:
        warnings.warn(f"the tokenizer cannot be sent to another process ({error}): this one tokenises")
        return None
