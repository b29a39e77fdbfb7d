"""The engine of everything that reads texts: corpus, documents, batches, statistics; checkpoints, several processes, halves."""
