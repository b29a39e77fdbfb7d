"""Tests of the package, in its own tree; helpers are in support."""
