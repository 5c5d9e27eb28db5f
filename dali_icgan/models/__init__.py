"""Trainable models, and the files they come in."""
