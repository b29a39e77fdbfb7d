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
        documents: the numbers of the batch's documents in this part of the corpus.
        part: the part of the corpus in which documents are numbered.
    """
    try:
        yield
    except NonFiniteActivations as error:
        where = f"{name}, document {documents[error.document]} {part}"
        raise NonFiniteActivations(f"{where}: {error}", error.document) from None
