"""Names the document at which a measurement stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pymultiling.errors import NonFiniteActivations


@contextmanager
def add_document_name(name: str, documents: Sequence[int], of_what: str = "of its corpus") -> Iterator[None]:
    """NonFiniteActivations that leave the block say which document of which corpus it was.

    documents: the numbers in the corpus of those in the batch.
    """
    try:
        yield
    except NonFiniteActivations as error:
        where = f"{name}, document {documents[error.document]} {of_what}"
        raise NonFiniteActivations(f"{where}: {error}", error.document) from None
