"""Probes: hooks that are attached to a model for a forward, to measure or to change it, and removed afterwards."""
