"""What runs wrote, to and from the Hugging Face Hub."""

from pymultiling.hub.transfer import pull_from_hub, push_to_hub

__all__ = ["pull_from_hub", "push_to_hub"]
