"""Processes, progress, files and locks of a run. Nothing here depends on models or neurons."""
