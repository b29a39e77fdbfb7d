"""Hugging Face decoders: where their neurons are, probes that measure them and masks that switch them off."""
