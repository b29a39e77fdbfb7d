"""What `reproduce` reads, prints and writes, a file for each paper."""
