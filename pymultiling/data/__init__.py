"""Corpora: files and data sets, chunks of texts, tokenised documents and batches, with reports of what is left out."""
