"""Error messages that name the document at which a measurement stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pymultiling.errors import NonFiniteActivations


@contextmanager
def add_document_name(name: str, documents: Sequence[int], part: str = "of its corpus") -> Iterator[None]:
    """Adds the corpus and the number of the document to NonFiniteActivations that leave the block.

    Args:
        name: what messages call the corpus, such as "language 'fr'".
        documents: the indices of the batch's documents in this part of the corpus, from 0. Messages count from 1.
        part: the part of the corpus in which documents are counted.
    """
    try:
        yield
    except NonFiniteActivations as error:
        where = f"{name}, document {documents[error.document] + 1:,} {part}"
        raise NonFiniteActivations(f"{where}: {error}", error.document) from None
