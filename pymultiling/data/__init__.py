"""From corpora to batches of documents, and an account of what was left out on the way."""
