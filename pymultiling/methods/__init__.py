"""The methods of the papers, a module for each: functions over models, corpora and statistics."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["pmi"])
