"""What a probe measures."""

from __future__ import annotations

from torch import Tensor

from pymultiling.errors import NonFiniteActivations

COMPUTED = ("q", "k", "v", "o", "ffn")  # the sites in the order in which a layer computes them


class Importance(dict):
    """{site: (documents, layers, neurons)}, the importance of every neuron.

    Attributes:
        error: {site: standard error, of the same shape} for the sites that are estimates; empty where all are exact.
    """

    def __init__(self, values: dict[str, Tensor], error: dict[str, Tensor]):
        super().__init__(values)
        self.error = error


def require_finite(found: dict[str, Tensor]) -> None:
    """NonFiniteActivations, naming where it began: the first layer, and in it the site that is computed first."""
    bad = {site: (~values.isfinite().all(-1)).T for site, values in found.items()}  # (layers, documents)
    broken = [(*bad[site].nonzero()[0].tolist(), site) for site in COMPUTED if site in bad and bad[site].any()]
    if broken:
        layer, document, site = min(broken, key=lambda where: where[0])
        raise NonFiniteActivations(
            f"NaN or infinite values at site {site}, layer {layer}, document {document} of the batch: look for "
            "NaN weights, or load the model in bfloat16 or float32 (float16 overflows early)",
            document,
        )
