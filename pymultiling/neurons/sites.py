"""The five sites of a decoder layer: the places at which a neuron can be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

Site: TypeAlias = Literal["ffn", "q", "k", "v", "o"]

# Intermediate FFN units, and the output units of the query, key, value and output projections. Results keep this order.
SITES: tuple[Site, ...] = ("ffn", "q", "k", "v", "o")


def check_sites(sites: str | Iterable[str]) -> tuple[str, ...]:
    """Returns the sites in the order of SITES, each once.

    Raises:
        ValueError: a site is unknown, or there is none.
    """
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    for name in names:
        if name not in SITES:
            raise ValueError(f"unknown site {name!r}: the sites are {', '.join(SITES)}")
    if not names:
        raise ValueError(f"no site was given: the sites are {', '.join(SITES)}")
    return tuple(site for site in SITES if site in names)
