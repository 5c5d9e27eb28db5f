"""Small batches for as long as somebody has time: a loader's memory, threads and descriptors must not grow. ``python -m tests.soak``."""
