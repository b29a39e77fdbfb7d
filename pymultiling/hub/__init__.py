"""Publishes results on the Hugging Face Hub, and downloads published results."""

from pymultiling.hub.transfer import pull_from_hub, push_to_hub

__all__ = ["pull_from_hub", "push_to_hub"]
