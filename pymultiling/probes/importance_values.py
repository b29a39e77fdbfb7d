"""The check that measured importance is finite."""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.errors import NON_FINITE_ADVICE, NonFiniteActivations
from pymultiling.runtime.device_copies import HostCopy

COMPUTATION_ORDER = ("q", "k", "v", "o", "ffn")  # the order in which a layer computes its sites


class FiniteCheck:
    """Whether all importance of a batch is finite. Until it is called, nothing waits for the device."""

    def __init__(self, importance: dict[str, Tensor]):
        """Launches the check. importance: {site: (documents, layers, neurons)}."""
        self._sites = [site for site in COMPUTATION_ORDER if site in importance]
        is_broken = torch.stack([~importance[site].isfinite().all(-1) for site in self._sites])
        self._is_broken = HostCopy(is_broken.permute(2, 0, 1))  # (layers, sites, documents)

    def __call__(self) -> None:
        """Waits for the result.

        Raises:
            NonFiniteActivations: some values are NaN or infinite. The message names the first layer that has such
                values, and in this layer the site that is computed first.
        """
        places = self._is_broken.wait().nonzero().tolist()
        if places:
            layer, site, document = places[0]
            raise NonFiniteActivations(
                f"NaN or infinite values at site {self._sites[site]}, layer {layer}, document {document + 1} of the "
                f"batch: {NON_FINITE_ADVICE}",
                document,
            )
