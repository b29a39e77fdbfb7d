"""Passes over corpora: from texts to statistics, with checkpoints and several processes."""
