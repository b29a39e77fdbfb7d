"""Parallel multilingual input (PMI, arXiv 2403.09073): prompts, the parallel inputs themselves, and what they do."""
