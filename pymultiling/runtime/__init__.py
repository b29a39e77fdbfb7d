"""What a run needs and that has nothing to do with neurons: processes, progress, files, locks. Nothing here knows of models."""
