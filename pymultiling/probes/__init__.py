"""What is attached to a model for one forward, and taken off again."""
