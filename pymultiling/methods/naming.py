"""Names the document at which a measurement stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pymultiling.data.batches import Batch
from pymultiling.errors import NonFiniteActivations


@contextmanager
def naming(language: str, batch: Batch) -> Iterator[None]:
    """NonFiniteActivations that leave the block say which document of which language it was."""
    try:
        yield
    except NonFiniteActivations as error:
        where = f"language {language!r}, document {batch.order[error.document]} of its corpus"
        raise NonFiniteActivations(f"{where}: {error}", error.document) from None
