"""Parts of a GPU benchmark that fail in different ways after their first row."""
