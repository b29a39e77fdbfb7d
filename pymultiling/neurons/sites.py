"""The five sites of a decoder layer at which a neuron can be."""

SITES = ("ffn", "q", "k", "v", "o")


def check_sites(sites) -> tuple[str, ...]:
    """`sites` as a tuple in the order of SITES; ValueError where one is unknown or none is left."""
    sites = (sites,) if isinstance(sites, str) else tuple(sites)
    for site in sites:
        if site not in SITES:
            raise ValueError(f"unknown site {site!r}: the sites are {', '.join(SITES)}")
    if not sites:
        raise ValueError(f"no site was asked for: the sites are {', '.join(SITES)}")
    return tuple(site for site in SITES if site in sites)
