"""Names the document at which a measurement stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pymultiling.data.batches import Batch
from pymultiling.errors import NonFiniteActivations


@contextmanager
def naming(name: str, batch: Batch, of_what: str = "of its corpus") -> Iterator[None]:
    """NonFiniteActivations that leave the block say which document of which corpus it was."""
    try:
        yield
    except NonFiniteActivations as error:
        where = f"{name}, document {batch.order[error.document]} {of_what}"
        raise NonFiniteActivations(f"{where}: {error}", error.document) from None
