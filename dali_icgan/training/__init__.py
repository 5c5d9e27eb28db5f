"""Training a generator and an extractor on one's own images."""
