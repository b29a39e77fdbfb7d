"""Hugging Face decoders: their families, layers, neurons and weights."""
