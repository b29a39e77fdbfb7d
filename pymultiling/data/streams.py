"""Documents of corpora as a pass needs them: read here, tokenised by workers beside the forward."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice

from pymultiling.data.chunks import Chunk
from pymultiling.data.tokenising import Documents, Tokenising
from pymultiling.data.worker import Worker

AHEAD = 2  # chunks that are with a worker or wait for one, for each worker


def stream(chunks: Iterable[Chunk], tokenising: Tokenising, workers: int) -> Iterator[tuple[Chunk, Documents]]:
    """The chunks, each with its documents, in order.

    Reading is this process's, so that sources need not be copied; so many `workers`, processes of their own, tokenise what comes
    next. For a single chunk, or with a tokenizer that cannot be sent to another process, this one does it. What goes
    wrong in reading is raised when all that was read before has been given.
    """
    failure: list[Exception] = []
    readable = _until_failure(chunks, failure)
    first = list(islice(readable, 3))  # a chunk with rows, and one that says that the corpus has ended
    sent = _pickled(tokenising) if workers and len(first) == 3 else None
    readable = chain(first, readable)
    if sent is None:
        yield from ((chunk, tokenising(chunk.rows)) for chunk in readable)
    else:
        yield from _from_workers(readable, sent, workers)
    if failure:
        raise failure[0]


def _from_workers(chunks: Iterable[Chunk], tokenising: bytes, workers: int) -> Iterator[tuple[Chunk, Documents]]:
    started: list[Worker] = []
    own = threading.local()  # each thread waits for a worker of its own

    def start() -> None:
        own.worker = Worker(tokenising)
        started.append(own.worker)

    pool = ThreadPoolExecutor(workers, initializer=start)
    try:
        coming: deque[tuple[Chunk, Future[Documents]]] = deque()
        for chunk in chunks:
            coming.append((chunk, pool.submit(lambda rows: own.worker(rows), chunk.rows)))
            if len(coming) > AHEAD * workers:
                yield _answered(*coming.popleft())
        while coming:
            yield _answered(*coming.popleft())
    finally:
        for _, one in coming:
            one.cancel()
        for worker in started:
            worker.close()
        pool.shutdown()


def _answered(chunk: Chunk, answer: Future[Documents]) -> tuple[Chunk, Documents]:
    return chunk, answer.result()


def _until_failure(chunks: Iterable[Chunk], failure: list[Exception]) -> Iterator[Chunk]:
    try:
        yield from chunks
    except Exception as error:
        failure.append(error)


def _pickled(tokenising: Tokenising) -> bytes | None:
    """None where another process could not read it."""
    kind = type(tokenising.tokenizer)
    try:
        if kind.__module__ == "__main__":
            raise TypeError(f"{kind.__name__} is defined in a script or notebook")
        return pickle.dumps(tokenising)
    except Exception as error:
        warnings.warn(f"the tokenizer cannot be sent to another process ({error}): this one tokenises")
        return None
