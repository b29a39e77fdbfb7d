"""The result of a measurement of importance, and the check that it is finite."""

from __future__ import annotations

from torch import Tensor

from pymultiling.errors import NON_FINITE_ADVICE, NonFiniteActivations

COMPUTATION_ORDER = ("q", "k", "v", "o", "ffn")  # the order in which a layer computes its sites


class Importance(dict[str, Tensor]):
    """{site: (documents, layers, neurons)}, the importance of every neuron.

    Attributes:
        error: {site: standard error of the same shape} for the sites that are estimated; empty where all are exact.
    """

    def __init__(self, values: dict[str, Tensor], error: dict[str, Tensor]):
        super().__init__(values)
        self.error = error


def require_finite(importance: dict[str, Tensor]) -> None:
    """Checks that all values are finite.

    Raises:
        NonFiniteActivations: some values are NaN or infinite. The message names the first layer that has such values,
            and in this layer the site that is computed first.
    """
    is_broken = {site: (~values.isfinite().all(-1)).T for site, values in importance.items()}  # (layers, documents)
    first_places = []
    for site in COMPUTATION_ORDER:
        if site in is_broken and is_broken[site].any():
            layer, document = is_broken[site].nonzero()[0].tolist()
            first_places.append((layer, document, site))
    if first_places:
        layer, document, site = min(first_places, key=lambda place: place[0])
        raise NonFiniteActivations(
            f"NaN or infinite values at site {site}, layer {layer}, document {document + 1} of the batch: "
            f"{NON_FINITE_ADVICE}",
            document,
        )
