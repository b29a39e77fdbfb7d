"""Publishing results on the Hugging Face Hub, and fetching them from it."""

from pymultiling.hub.transfer import pull_from_hub, push_to_hub

__all__ = ["pull_from_hub", "push_to_hub"]
