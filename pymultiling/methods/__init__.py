"""The papers' methods: each a few functions over models, data and statistics, naming its paper."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["pmi"])
