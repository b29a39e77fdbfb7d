"""Streams of chunks with their documents. This process reads, and workers tokenise while the model runs."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, islice

from pymultiling.data.chunks import Chunk
from pymultiling.data.rows import Record
from pymultiling.data.tokenising import Documents, Tokenisation
from pymultiling.data.tokenising_worker import Worker
from pymultiling.errors import error_text

AHEAD = 2  # chunks that are read in advance for each worker


def stream(
    chunks: Iterable[Chunk], tokenisation: Tokenisation, workers: int
) -> Generator[tuple[Chunk, Documents], None, None]:
    """Yields the chunks in order, each with its documents.

    This process reads the chunks, so that the sources need not be copied. `workers` other processes tokenise them in
    advance. This process tokenises the first chunk itself, so that nothing waits for the workers to start. It tokenises
    all chunks if there are at most two, or if the tokenizer cannot be pickled. If reading raises an exception, the
    chunks that were read before are yielded first.
    """
    failure: list[Exception] = []
    readable = _read_until_failure(chunks, failure)
    # Two chunks are one with records and the one that marks the end: workers would have nothing to do.
    first = list(islice(readable, 3))
    pickled = _pickle(tokenisation) if workers and len(first) == 3 else None
    readable = chain(first, readable)
    if pickled is None:
        yield from ((chunk, tokenisation(chunk.records)) for chunk in readable)
    else:
        yield from _tokenise_in_workers(readable, tokenisation, pickled, workers)
    if failure:
        raise failure[0]


def _tokenise_in_workers(
    chunks: Iterable[Chunk], tokenisation: Tokenisation, pickled: bytes, worker_count: int
) -> Iterator[tuple[Chunk, Documents]]:
    workers = [Worker(pickled) for _ in range(worker_count)]
    unassigned = deque(workers)
    thread = threading.local()  # each thread of the pool waits for a worker of its own

    def assign_worker() -> None:
        thread.worker = unassigned.popleft()

    def tokenise(records: list[Record]) -> Documents:
        worker: Worker = thread.worker
        return worker(records)

    pool = ThreadPoolExecutor(worker_count, initializer=assign_worker)
    try:
        pending: deque[tuple[Chunk, Callable[[], Documents]]] = deque()
        for number, chunk in enumerate(chunks):
            result: Callable[[], Documents]
            if number:
                result = pool.submit(tokenise, chunk.records).result
            else:
                result = partial(tokenisation, chunk.records)
            pending.append((chunk, result))
            if len(pending) > AHEAD * worker_count:
                yield _wait(*pending.popleft())
        while pending:
            yield _wait(*pending.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.close()
        pool.shutdown()


def _wait(chunk: Chunk, result: Callable[[], Documents]) -> tuple[Chunk, Documents]:
    return chunk, result()


def _read_until_failure(chunks: Iterable[Chunk], failure: list[Exception]) -> Iterator[Chunk]:
    """Yields the chunks, and appends the exception that ends them, if there is one."""
    try:
        yield from chunks
    except Exception as error:  # noqa: BLE001 - `stream` raises it
        failure.append(error)


def _pickle(tokenisation: Tokenisation) -> bytes | None:
    """Pickles the tokenisation for workers. Returns None, with a warning, if they could not load it."""
    kind = type(tokenisation.tokenizer)
    try:
        if kind.__module__ == "__main__":
            raise TypeError(f"{kind.__name__} is defined in a script or notebook")
        return pickle.dumps(tokenisation)
    except Exception as error:  # noqa: BLE001 - pickling runs the tokenizer's own code
        warnings.warn(
            f"the tokenizer cannot be sent to another process ({error_text(error)}): this process tokenises",
            stacklevel=2,
        )
        return None
